// Sends mails. Its one setting is the address at which other services are called by their names.
const http = require("node:http");
const others = new URL(process.env.GUSSET_OUTBOUND);

http
  .createServer((request, response) => {
    let order = "";
    request.on("data", (chunk) => (order += chunk));
    request.on("end", () => {
      const options = { host: others.hostname, port: others.port, path: "/items", headers: { host: "cart" } };
      http.get(options, (cart) => {
        let items = "";
        cart.on("data", (chunk) => (items += chunk));
        cart.on("end", () => response.end(`mail of ${order}: ${items}`));
      });
    });
  })
  .listen(Number(process.argv[2]), "127.0.0.1");
