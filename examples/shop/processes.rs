//! A shop whose parts are processes of their own.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use gusset::{
    call::TraceId,
    console::{InvalidUrl, OtherConsole, OtherSidecar, Sources},
    registry::Registry,
    sidecar::Record,
};
use gusset_engines::{Port, Process, pause, resume};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

use crate::{
    Ground, Place,
    chaos::{Chaos, Faults, told},
    host::{POST, Part, Post},
    place::Registries,
    plan::CONSOLE,
    release::{Order, Releases},
    services::SERVICES,
    tell::{Figures, records, retries_in},
};

/// How long an instance may take until it is registered, on a machine that is very busy.
const LIMIT: Duration = Duration::from_secs(60);

/// How long one that is looked into may take for its answer. One that is frozen is passed over.
const ASKED: Duration = Duration::from_secs(2);

/// How long one that was killed is waited for, among much else that is to be done.
const SOON: Duration = Duration::from_secs(1);

/// Which of its ports is that of an instance behind its sidecar.
const APP: usize = 2;

/// The longest answer.
const ANSWER: usize = 16 << 20;

/// Where the parts of a shop run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hosting {
    /// In this process, each instance with a thread of its own.
    #[default]
    Threads,
    /// Each instance, the gateway and the registry in a process of its own: this program once more, with the one argument `serve`, upon which it is to call
    /// [`host::run`](crate::host::run). They end with this process, however that ends. Needs a [broker](crate::Carrier) on NATS and a folder or a database, for they share
    /// no memory.
    Processes(PathBuf),
    /// The same, and each instance behind a `gusset sidecar`: this program once more, with `sidecar` and the options of that. Services find each other through the registry that
    /// speaks Consul's HTTP API, as that is the one which sidecars know.
    Sidecars(PathBuf),
}

/// The parts that run.
#[derive(Debug)]
pub(crate) struct Processes {
    program: PathBuf,
    /// What all of them are told.
    ground: Ground,
    url: String,
    registry: Arc<dyn Registry>,
    gateway_desk: SocketAddr,
    parts: Vec<Member>,
    http: Client<HttpConnector, Full<Bytes>>,
    /// Held for as long as somebody may listen there.
    _ports: Vec<Port>,
}

/// One of them.
#[derive(Debug)]
struct Member {
    id: String,
    service: Option<(&'static str, usize)>,
    process: Option<Process>,
    addr: Option<SocketAddr>,
    /// Where it was before.
    last: Option<SocketAddr>,
    /// The process that was told which faults are on, and which.
    told: Option<(u32, Faults)>,
    /// Where its sidecar tells of itself.
    admin: Option<SocketAddr>,
    /// The process that stands still.
    frozen: Option<u32>,
    /// Of its sidecar and its own, for as long as it may be started there.
    ports: Vec<Port>,
}

impl Member {
    fn new(id: String) -> Self {
        let (service, process, addr, last) = (None, None, None, None);
        let (told, admin, frozen, ports) = (None, None, None, Vec::new());
        Self { id, service, process, addr, last, told, admin, frozen, ports }
    }

    /// It is no longer where it was, or will not be.
    const fn leave(&mut self) {
        if let Some(addr) = self.addr.take() {
            self.last = Some(addr);
        }
    }
}

impl Processes {
    /// Starts the registry, all services, and the gateway, which listens on `front`.
    pub(crate) async fn open(
        (program, sidecars): (&Path, bool),
        ground: &Ground,
        front: SocketAddr,
    ) -> io::Result<Self> {
        let registry_port = Port::free();
        let url = format!("http://{}", registry_port.address());
        // The settings are there in any case.
        let place = match &ground.registry {
            place @ Place::Etcd(_) => place.clone(),
            _ => Place::Remote(url.clone()),
        };
        let ground = Ground { registry: place, ..ground.clone() };
        let registry =
            // Looked into whatever is broken on purpose.
            Registries::at(&ground.registry, &url, ground.times, &Chaos::default())?.connect()?;
        let desk = Port::free();
        let gateway_desk = address(&desk)?;
        let mut processes = Self {
            program: program.to_owned(),
            ground,
            url,
            registry,
            gateway_desk,
            parts: Vec::new(),
            http: Client::builder(TokioExecutor::new()).build(HttpConnector::new()),
            _ports: vec![desk],
        };
        let at = address(&registry_port)?;
        processes._ports.push(registry_port);
        let process = processes.process("registry", Part::Registry(at)).await?;
        processes.listens("registry", process, at).await?;
        for (service, instances) in SERVICES {
            for number in 1..=instances {
                let (id, service) = (format!("{service}-{number}"), Some((service, number)));
                let ports: Vec<_> = (0..4).filter(|_| sidecars).map(|_| Port::free()).collect();
                let admin = ports.last().map(address).transpose()?;
                let mut member = Member { service, admin, ports, ..Member::new(id) };
                member.process = Some(processes.instance(&member).await?);
                processes.parts.push(member);
            }
        }
        for at in 0..processes.parts.len() {
            processes.registered(at, LIMIT).await?;
        }
        let process = processes.process("gateway", Part::Gateway(front, gateway_desk)).await?;
        processes.listens("gateway", process, front).await?;
        Ok(processes)
    }

    async fn process(&self, id: &str, part: Part) -> io::Result<Process> {
        let mut command = Command::new(&self.program);
        command.arg("serve").env(POST, self.post(part)?);
        let id = id.to_owned();
        blocking(move || Process::started(&id, command)).await
    }

    fn post(&self, part: Part) -> io::Result<String> {
        let post = Post { part, ground: self.ground.clone(), url: self.url.clone() };
        serde_json::to_string(&post).map_err(io::Error::other)
    }

    /// An instance, behind its sidecar if it has one.
    async fn instance(&self, member: &Member) -> io::Result<Process> {
        let unknown = || io::Error::other(format!("{} is no service", member.id));
        let (service, number) = member.service.ok_or_else(unknown)?;
        let [listen, outbound, app, admin] = &member.ports[..] else {
            return self.process(&member.id, Part::Service(service.to_owned(), number)).await;
        };
        let millis = |span: Duration| format!("{}ms", span.as_millis());
        let mut command = Command::new(&self.program);
        command
            .args(["sidecar", "--service", service, "--id", &member.id])
            .args(["--app", &app.address(), "--health", "/readyz", "--registry", &self.url])
            .args(["--listen", &listen.address(), "--outbound", &outbound.address()])
            .args(["--admin", &admin.address(), "--log", "warn"])
            .args(["--ttl", &millis(self.ground.times.ttl)])
            .args(["--circuit-open", &millis(self.ground.times.open_for)])
            .args(["--grace", "500ms", "--"])
            .arg(&self.program)
            .arg("serve");
        let part = Part::Behind(service.to_owned(), address(app)?, outbound.number());
        command.env(POST, self.post(part)?);
        let id = member.id.clone();
        blocking(move || Process::started(&id, command)).await
    }

    /// Keeps a part that is no service, once it can be reached.
    async fn listens(&mut self, id: &str, mut process: Process, at: SocketAddr) -> io::Result<()> {
        let listens = async {
            while tokio::net::TcpStream::connect(at).await.is_err() {
                if let Some(ended) = process.has_ended() {
                    return Err(ended_early(id, &process, ended));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        timeout(LIMIT, listens).await.map_err(io::Error::other)??;
        let (process, addr) = (Some(process), Some(at));
        self.parts.push(Member { process, addr, ..Member::new(id.to_owned()) });
        Ok(())
    }

    /// Waits until others find this one at its new place.
    async fn registered(&mut self, at: usize, limit: Duration) -> io::Result<()> {
        let member = &mut self.parts[at];
        let Some((service, _)) = member.service else { return Ok(()) };
        member.leave();
        let (id, admin, before) = (member.id.clone(), member.admin, member.last);
        let found = async {
            loop {
                let process = self.parts[at].process.as_mut();
                if let Some(process) = process
                    && let Some(ended) = process.has_ended()
                {
                    return Err(ended_early(&id, process, ended));
                }
                // Behind a sidecar it is where it was before, so that is asked whether it is there again.
                let is_new = match admin {
                    Some(admin) => {
                        self.ask(admin, Method::GET, "/readyz", Bytes::new()).await.is_ok()
                    }
                    None => false,
                };
                // The registry has just begun as well.
                if let Ok(known) = self.registry.discover(service).await {
                    let it = known.healthy().find(|instance| *instance.id == *id);
                    let addr = it.and_then(|it| it.authority().to_string().parse().ok());
                    let moved = |addr: &SocketAddr| admin.is_none() && Some(*addr) != before;
                    if let Some(addr) = addr.filter(|addr| is_new || moved(addr)) {
                        return Ok(addr);
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let addr: SocketAddr = timeout(limit, found).await.map_err(io::Error::other)??;
        self.parts[at].addr = Some(addr);
        Ok(())
    }

    /// In which the services find each other.
    pub(crate) const fn place(&self) -> &Place {
        &self.ground.registry
    }

    /// Where Consul's HTTP API is, with the settings.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Each instance that runs, and where it listens.
    pub(crate) fn instances(&self) -> Vec<(String, SocketAddr)> {
        let services = self.parts.iter().filter(|member| member.service.is_some());
        services.filter_map(|member| Some((member.id.clone(), member.addr?))).collect()
    }

    /// The ids of all processes, by the names of the parts.
    pub(crate) fn ids(&self) -> Vec<(String, u32)> {
        let of = |member: &Member| Some((member.id.clone(), member.process.as_ref()?.id()));
        self.parts.iter().filter_map(of).collect()
    }

    /// `kill -9`; whether it ran.
    pub(crate) async fn kill(&mut self, id: &str) -> io::Result<bool> {
        let Some(member) = self.parts.iter_mut().find(|member| member.id == id) else {
            return Ok(false);
        };
        member.leave();
        match member.process.take() {
            Some(process) => blocking(move || drop(process)).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Lets an instance stand still, or go on; behind a sidecar it is that which does.
    pub(crate) async fn freeze(&mut self, id: &str, still: bool) -> io::Result<()> {
        let Some(member) = self.parts.iter_mut().find(|member| member.id == id) else {
            return Ok(());
        };
        let process = member.process.as_ref().map(Process::id);
        match (still, process) {
            (true, Some(process)) if member.frozen != Some(process) => {
                member.frozen = Some(process);
                blocking(move || pause(process)).await
            }
            (false, Some(process)) if member.frozen.take() == Some(process) => {
                blocking(move || resume(process)).await
            }
            _ => Ok(()),
        }
    }

    /// Lets an instance leave, if it runs, and starts it again.
    pub(crate) async fn restart(&mut self, id: &str) -> io::Result<()> {
        let known = self.parts.iter().position(|member| member.id == id);
        let found = known.and_then(|at| Some((at, self.parts[at].service?)));
        let (at, _) =
            found.ok_or_else(|| io::Error::other(format!("there is no instance {id}")))?;
        if let Some(mut process) = self.parts[at].process.take() {
            blocking(move || process.stop()).await?;
        }
        let process = self.instance(&self.parts[at]).await?;
        self.parts[at].process = Some(process);
        self.registered(at, LIMIT).await
    }

    /// Starts an instance that was killed, and once more if it has ended since, as one does that begins without its database. Waits for a moment only until others find it: what
    /// keeps it may be waiting for whoever calls this.
    pub(crate) async fn revive(&mut self, id: &str) -> io::Result<()> {
        let known = self.parts.iter().position(|member| member.id == id);
        let at = known.ok_or_else(|| io::Error::other(format!("there is no instance {id}")))?;
        let runs =
            self.parts[at].process.as_mut().is_some_and(|process| process.has_ended().is_none());
        if !runs {
            let process = self.instance(&self.parts[at]).await?;
            self.parts[at].process = Some(process);
        }
        let registered = self.registered(at, SOON).await;
        let member = &mut self.parts[at];
        if member.process.as_mut().is_some_and(|process| process.has_ended().is_some()) {
            // It has no id any more, by which others would ask for it.
            member.process = None;
        }
        registered
    }

    /// Tells each instance which faults are on. One that is to come back is told when it has.
    pub(crate) async fn match_with(&mut self, on: Faults) -> io::Result<()> {
        let (mut result, path) = (Ok(()), told::path(on));
        for at in 0..self.parts.len() {
            let Member { service, process, addr, frozen, told, .. } = &self.parts[at];
            let (Some(_), Some(process), Some(addr)) = (service, process, addr) else { continue };
            let (id, addr) = (process.id(), *addr);
            if *frozen == Some(id) {
                continue;
            }
            let knows = told.filter(|(of, _)| *of == id).map_or(Faults::default(), |(_, on)| on);
            if knows == on {
                continue;
            }
            match self.ask(addr, Method::PUT, &path, Bytes::new()).await {
                Ok(_) => self.parts[at].told = Some((id, on)),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// What the instances tell of themselves, by their ids; those that do not answer are left out.
    pub(crate) async fn figures(&self) -> Vec<(String, Figures)> {
        let mut all = Vec::new();
        for member in self.parts.iter().filter(|member| member.service.is_some()) {
            let Some(addr) = member.addr else { continue };
            let Ok(mut figures) = self.read::<Figures>(addr, "/figures").await else { continue };
            if let Some(admin) = member.admin {
                figures.circuits.clear();
                let metrics = self.ask(admin, Method::GET, "/metrics", Bytes::new()).await;
                let metrics = metrics.unwrap_or_default();
                figures.retries += retries_in(&String::from_utf8_lossy(&metrics));
                let status: Value = self.read(admin, "/status").await.unwrap_or_default();
                figures.circuits.extend(circuits_in(&status));
            }
            all.push((member.id.clone(), figures));
        }
        all
    }

    pub(crate) async fn trace(&self, id: TraceId) -> Vec<Record> {
        let mut all = Vec::new();
        let desks = [self.gateway_desk].into_iter();
        for addr in desks.chain(self.instances().into_iter().map(|(_, addr)| addr)) {
            all.extend(records(self.read(addr, &format!("/spans/{id}")).await.unwrap_or_default()));
        }
        for admin in self.parts.iter().filter_map(|member| member.admin) {
            let told: Value = self.read(admin, &format!("/traces/{id}")).await.unwrap_or_default();
            all.extend(records(told["spans"].clone()));
        }
        all
    }

    /// Adds what the consoles of the gateway, the instances and their sidecars show, at the places where they are now.
    pub(crate) fn on_console(&self, sources: Sources) -> Result<Sources, InvalidUrl> {
        let token = self.ground.tokens().of_operators();
        let console =
            |addr: SocketAddr| OtherConsole::new(&format!("http://{addr}{CONSOLE}"), Some(&token));
        let mut sources = sources.other("gateway", console(self.gateway_desk)?);
        for member in &self.parts {
            let (Some((service, _)), Some(addr)) = (member.service, member.addr) else { continue };
            let Some(admin) = member.admin else {
                sources = sources.other(member.id.as_str(), console(addr)?);
                continue;
            };
            let sidecar = OtherSidecar::new(service, &format!("http://{admin}"), None)?;
            sources = sources.other(member.id.as_str(), sidecar);
            // Of the calls its sidecar tells; of messages it knows itself.
            if let Some(app) = member.ports.get(APP).and_then(|port| address(port).ok()) {
                sources = sources.other(format!("{} itself", member.id), console(app)?);
            }
        }
        Ok(sources)
    }

    /// What the gateway tells of the releases.
    pub(crate) async fn releases(&self) -> io::Result<Releases> {
        self.read(self.gateway_desk, "/releases").await
    }

    /// Has the gateway change that.
    pub(crate) async fn order_releases(&self, order: &Order) -> io::Result<()> {
        let order = Bytes::from(serde_json::to_vec(order).map_err(io::Error::other)?);
        self.ask(self.gateway_desk, Method::POST, "/releases", order).await.map(drop)
    }

    /// Sends this to all instances of a service.
    pub(crate) async fn tell(
        &self,
        service: &str,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> io::Result<()> {
        let body = Bytes::from(serde_json::to_vec(body).map_err(io::Error::other)?);
        let of_service =
            |(id, addr): (String, SocketAddr)| (id.rsplit_once('-')?.0 == service).then_some(addr);
        for addr in self.instances().into_iter().filter_map(of_service) {
            self.ask(addr, method.clone(), path, body.clone()).await?;
        }
        Ok(())
    }

    async fn read<T: DeserializeOwned>(&self, addr: SocketAddr, path: &str) -> io::Result<T> {
        let answer = self.ask(addr, Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&answer).map_err(io::Error::other)
    }

    async fn ask(
        &self,
        addr: SocketAddr,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> io::Result<Bytes> {
        let request = Request::builder().method(method).uri(format!("http://{addr}{path}"));
        let request = request.header("content-type", "application/json").body(Full::from(body));
        let answer = async {
            let response = self.http.request(request.map_err(io::Error::other)?).await;
            let response = response.map_err(io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER).collect().await;
            let body = body.map_err(io::Error::other)?.to_bytes();
            if !status.is_success() {
                return Err(io::Error::other(format!("{path} of {addr} answers {status}")));
            }
            Ok(body)
        };
        timeout(ASKED, answer).await.map_err(io::Error::other)?
    }

    /// First the front door, then the services, those that call before those that are called, then the registry.
    pub(crate) async fn close(mut self) -> io::Result<()> {
        let mut result = Ok(());
        // Who stands still does not hear that it is over.
        let frozen = self.parts.iter().filter(|member| member.frozen.is_some());
        for id in frozen.map(|member| member.id.clone()).collect::<Vec<_>>() {
            result = self.freeze(&id, false).await.and(result);
        }
        self.parts.sort_by_key(|member| {
            let place = |(service, _)| SERVICES.iter().position(|(name, _)| *name == service);
            match (&*member.id, member.service.and_then(place)) {
                ("gateway", _) => 0,
                (_, Some(place)) => SERVICES.len() - place,
                _ => usize::MAX,
            }
        });
        let mut parts = self.parts.into_iter().peekable();
        while let Some(first) = parts.next() {
            let service = first.service.map(|(service, _)| service);
            let mut together = vec![first];
            while let Some(next) = parts.next_if(|next| {
                service.is_some() && next.service.map(|(service, _)| service) == service
            }) {
                together.push(next);
            }
            let mut leaving = JoinSet::new();
            for mut process in together.into_iter().filter_map(|member| member.process) {
                leaving.spawn(blocking(move || process.stop()));
            }
            while let Some(stopped) = leaving.join_next().await {
                let stopped = stopped.map_err(io::Error::other).flatten();
                let well = stopped.and_then(|status| match status.success() {
                    true => Ok(()),
                    false => Err(io::Error::other(format!("a part of the shop ended: {status}"))),
                });
                result = well.and(result);
            }
        }
        result
    }
}

/// What the status of a sidecar says of the instances that it calls.
fn circuits_in(status: &Value) -> Vec<(String, bool)> {
    let services = status["outbound"].as_object().into_iter().flat_map(|all| all.values());
    let instances = services.flat_map(|all| all.as_array().into_iter().flatten());
    let known = |one: &Value| {
        Some((one["instance"].as_str()?.to_owned(), one["circuit"].as_str()? == "closed"))
    };
    instances.filter_map(known).collect()
}

fn address(port: &Port) -> io::Result<SocketAddr> {
    port.address().parse().map_err(io::Error::other)
}

fn ended_early(id: &str, process: &Process, ended: std::process::ExitStatus) -> io::Error {
    io::Error::other(format!("{id} ended ({ended}): {}", process.log().trim()))
}

/// Processes are started and ended by calls that block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)
}
