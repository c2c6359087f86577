// The whole shop in a browser. Text from services is only ever text.
const $ = (id) => document.getElementById(id);
const money = (cents) => (cents / 100).toLocaleString('en', { style: 'currency', currency: 'EUR' });
const products = new Map();
const followed = new Map();
let token = sessionStorage.getItem('token');
let email = sessionStorage.getItem('email');
// The key of the order that the cart is: the same until its fate is known, so that an order that is sent twice is one.
let key = null;

function el(tag, props = {}, ...children) {
  const made = Object.assign(document.createElement(tag), props);
  made.append(...children);
  return made;
}

// What went wrong, in words for whoever shops.
class Trouble extends Error {
  constructor(text, answer = {}) {
    super(text);
    Object.assign(this, answer);
  }
}

async function call(method, path, body, headers = {}) {
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers['content-type'] = 'application/json';
  let answer;
  try {
    answer = await fetch(`/api${path}`, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Trouble('The shop cannot be reached. Nothing was lost; please try again.');
  }
  const text = await answer.text();
  let read = null;
  try { read = text ? JSON.parse(text) : null; } catch { /* of a proxy in between */ }
  if (answer.ok) return { status: answer.status, body: read };
  const known = { status: answer.status, wait: Number(answer.headers.get('retry-after')) || 1 };
  if (answer.status === 429) throw new Trouble('That was too fast.', known);
  if (answer.status === 401 && token) {
    leave();
    throw new Trouble('Your session has ended. Please sign in again.', known);
  }
  throw new Trouble(read?.detail ?? `The shop answered ${answer.status}.`, known);
}

let countdown = 0;
function tell(text) {
  clearInterval(countdown);
  $('alert').textContent = text ?? '';
  $('alert').hidden = !text;
}

// Runs what a button does, once at a time. After a 429 the button comes back when the shop said.
async function act(button, what) {
  if (button.disabled) return;
  button.disabled = true;
  let wait = 0;
  try {
    tell();
    await what();
  } catch (trouble) {
    if (!(trouble instanceof Trouble)) throw trouble;
    if (trouble.status === 429) wait = Math.min(trouble.wait, 60);
    tell(wait ? '' : trouble.message);
  } finally {
    if (wait) pause(button, wait);
    else button.disabled = false;
  }
}

function pause(button, wait) {
  const say = () => tell(`That was too fast. You can go on in ${wait} s.`);
  const shown = button.textContent;
  say();
  // Who listens to the page is told once; who looks sees it count.
  button.textContent = `${shown} (${wait} s)`;
  const ticks = setInterval(() => {
    wait -= 1;
    button.textContent = wait > 0 ? `${shown} (${wait} s)` : shown;
    if (wait > 0) return;
    clearInterval(ticks);
    button.disabled = false;
    if ($('alert').textContent.startsWith('That was too fast')) tell();
  }, 1000);
}

function show() {
  $('who').textContent = token ? email : '';
  $('enter').hidden = Boolean(token);
  for (const id of ['leave', 'cart', 'orders']) $(id).hidden = !token;
}

function leave() {
  for (const reader of followed.values()) reader.abort();
  followed.clear();
  token = email = key = null;
  sessionStorage.clear();
  $('lines').replaceChildren();
  $('order-list').replaceChildren();
  show();
}

async function enter() {
  const form = { email: $('email').value, password: $('password').value };
  const { body } = await call('POST', '/login', form);
  token = body.token;
  email = form.email;
  sessionStorage.setItem('token', token);
  sessionStorage.setItem('email', email);
  $('password').value = '';
  show();
  $('catalogue-title').focus();
  await Promise.all([cart(), orders()]);
}

async function register() {
  if (!$('enter').reportValidity()) return;
  const [address, password] = [$('email').value, $('password').value];
  await call('POST', '/users', { email: address, name: address.split('@')[0], password });
  await enter();
}

async function catalogue() {
  const { body } = await call('GET', '/products');
  products.clear();
  for (const product of body) products.set(product.id, product);
  const card = (product) => {
    const add = el('button', { type: 'button', textContent: 'Add to cart', ariaLabel: `Add ${product.name} to cart` });
    add.onclick = () => act(add, () => put(product.id));
    return el('li', {}, el('h3', { textContent: product.name }),
      el('span', { textContent: money(product.price_cents) }),
      el('span', { className: 'soft', textContent: product.stock ? `${product.stock} in stock` : 'sold out' }), add);
  };
  $('catalogue').replaceChildren(...(body.length ? body.map(card) : [el('li', { className: 'empty', textContent: 'There is nothing for sale.' })]));
}

async function put(id) {
  if (!token) {
    $('email').focus();
    throw new Trouble('Please sign in first, or open an account.');
  }
  const line = [...$('lines').children].find((line) => line.dataset.id === id);
  await cart('PUT', `/cart/items/${id}`, { quantity: Number(line?.dataset.quantity ?? 0) + 1 });
}

// Answers may overtake each other; the one to the last question is what the cart is.
let asked = 0;
async function cart(method = 'GET', path = '/cart', form = undefined) {
  asked += 1;
  const mine = asked;
  const { body } = await call(method, path, form);
  if (mine === asked) lines(body.items);
}

function lines(items) {
  // Another cart is another order.
  key = null;
  let total = 0;
  $('lines').replaceChildren(...items.map(({ product_id: id, quantity }) => {
    const product = products.get(id);
    total += quantity * (product?.price_cents ?? 0);
    const name = product?.name ?? 'a product';
    const drop = el('button', { type: 'button', className: 'quiet', textContent: 'Remove', ariaLabel: `Remove ${name}` });
    drop.onclick = () => act(drop, async () => {
      await call('DELETE', `/cart/items/${id}`);
      await cart();
    });
    const line = el('li', {}, el('span', { textContent: `${quantity} × ${name}` }), drop);
    Object.assign(line.dataset, { id, quantity });
    return line;
  }));
  $('total').textContent = money(total);
  $('cart-empty').hidden = items.length > 0;
  $('pay').hidden = items.length === 0;
}

async function order() {
  const items = [...$('lines').children].map((line) => ({ product_id: line.dataset.id, quantity: Number(line.dataset.quantity) }));
  key ??= crypto.randomUUID();
  const headers = { prefer: 'respond-async', 'idempotency-key': key };
  const { body } = await call('POST', '/orders', { items, card: $('card').value.replaceAll(' ', '') }, headers);
  key = null;
  $('orders-title').focus();
  // Until then nobody orders the same once more by accident.
  const how = await follow(body);
  // What was not bought waits in the cart for another try.
  if (how === 'confirmed') {
    asked += 1;
    await call('DELETE', '/cart');
    lines([]);
  }
  await catalogue();
}

async function orders() {
  const { body } = await call('GET', '/orders');
  // The newest come last, and are shown first.
  body.slice(-5).forEach((order) => follow(order));
}

const STORY = {
  placed: () => ['wait', 'Placed'],
  'stock-reserved': () => ['wait', 'Set aside for you, waiting for the payment'],
  'stock-refused': ({ why }) => ['bad', `Not to be had: ${why}`],
  'payment-taken': () => ['good', 'Paid'],
  'payment-refused': ({ why, decided }) => ['bad', decided ? `Your payment was refused: ${why}` : `Payment is not possible at present: ${why}. Please try again later.`],
  confirmed: () => ['good', 'Confirmed: it is on its way'],
  'payment-returned': () => ['bad', 'Your money was given back'],
  'stock-released': () => ['bad', 'Nothing is set aside any more'],
  cancelled: () => ['bad', 'Cancelled: you pay nothing'],
};

// Shows an order, and what happens to it while it happens, until its end. The connection may break; it goes on where it was.
async function follow(order) {
  if (followed.has(order.id)) return null;
  const reader = new AbortController();
  followed.set(order.id, reader);
  const story = el('ol', { className: 'story' });
  story.setAttribute('aria-live', 'polite');
  const place = el('li', {}, el('h3', { textContent: `${money(order.total_cents)}, order ${order.id.slice(-6)}` }), story);
  $('orders-empty').hidden = true;
  $('order-list').prepend(place);
  let known = 0;
  for (let pause = 250; ; pause = Math.min(pause * 2, 10000)) {
    try {
      const headers = { authorization: `Bearer ${token}`, 'last-event-id': String(known) };
      const answer = await fetch(`/api/orders/${order.id}/events`, { headers, signal: reader.signal });
      if ([204, 401, 404].includes(answer.status)) return null;
      if (answer.status === 429) pause = Math.max(pause, 1000 * Number(answer.headers.get('retry-after') ?? 1));
      if (answer.ok) {
        for await (const event of events(answer.body)) {
          if (event.version <= known) continue;
          known = event.version;
          pause = 250;
          const [className, textContent] = STORY[event.event]?.(event) ?? ['', event.event];
          story.append(el('li', { className, textContent }));
          if (event.event === 'confirmed' || event.event === 'cancelled') return event.event;
        }
      }
    } catch {
      if (reader.signal.aborted) return null;
    }
    await new Promise((done) => setTimeout(done, pause));
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split('\n\n');
    text = parts.pop();
    for (const part of parts) {
      const data = part.split('\n').find((line) => line.startsWith('data: '));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}

$('enter').onsubmit = (event) => { event.preventDefault(); act($('login'), enter); };
$('register').onclick = () => act($('register'), register);
$('leave').onclick = () => { leave(); $('email').focus(); };
$('cart').onsubmit = (event) => { event.preventDefault(); act($('order'), order); };
show();
catalogue().then(() => token && Promise.all([cart(), orders()])).catch((trouble) => tell(trouble.message));
