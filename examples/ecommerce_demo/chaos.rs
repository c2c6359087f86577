//! The acts in which things are broken on purpose, and the desk where anybody can do that.

use std::{io, net::SocketAddr, time::Duration};

use gusset::broker::Filter;
use shop::{
    chaos::{Chaos, Fault, Faults, Schedule},
    desk,
    load::Rate,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    load::GOOD_CARD,
    options::Options,
    shopper::Shopper,
    story::{Failed, Story},
};

/// After which an order has to go through again when nothing is broken any more: circuits are closed, killed instances are there again, what they were at
/// work on is taken over.
const RECOVERED: Duration = Duration::from_secs(20);

/// Serves the desk until it is dropped.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) addr: SocketAddr,
    serving: JoinHandle<()>,
    /// What was last told of.
    told: Faults,
    switches: watch::Receiver<Faults>,
}

impl Desk {
    /// Spawns the task that serves it.
    pub(crate) async fn spawn(port: u16, chaos: &Chaos, rate: Rate) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let addr = listener.local_addr()?;
        let router = desk::router(chaos.clone(), rate);
        let serving = tokio::spawn(async move {
            // Without it there are no switches, and the story goes on.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { addr, serving, told: Faults::default(), switches: chaos.watch() })
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Story {
    /// Looks on for so long, or until Enter is pressed; what is broken meanwhile at the desk is.
    pub(crate) async fn look_on(&mut self, span: Duration) {
        let end = Instant::now() + span;
        loop {
            // What was switched since the last look as well.
            self.obey().await;
            let left = end.saturating_duration_since(Instant::now());
            tokio::select! {
                () = self.terminal.pause(left) => return,
                // The switches are in our own hands.
                _ = self.desk.switches.changed() => {}
            }
        }
    }

    /// Does what the switches say, and tells of it.
    pub(crate) async fn obey(&mut self) {
        let on = *self.desk.switches.borrow_and_update();
        for fault in Fault::all() {
            match (self.desk.told.has(fault), on.has(fault)) {
                (false, true) => self.terminal.say(format!("✗ {fault}: {}", fault.meaning())),
                (true, false) => self.terminal.say(format!("  {fault} is over")),
                _ => {}
            }
        }
        self.desk.told = on;
        if let Err(error) = self.engines.servers.obey(on).await {
            self.terminal.say(format!("a server does not come back: {error}"));
        }
        if let Err(error) = self.shop.obey().await {
            self.terminal.say(format!("an instance does not come back yet: {error}"));
        }
        self.console.look(&self.shop);
    }

    /// Everything that a seed chooses, while customers come.
    pub(crate) async fn everything_breaks(
        &mut self,
        options: &Options,
        seed: u64,
    ) -> Result<(), Failed> {
        self.the_services_come_up().await?;
        self.terminal.act(2, format!("customers arrive, and things break: --chaos {seed}"));
        self.desk_commands();
        let visitor = self.customers_arrive(options).await?;
        let chaos = self.shop.chaos.clone();
        let here = Fault::all().filter(|&fault| chaos.is_offered(fault)).collect();
        let schedule = Schedule::random(seed, self.share(80), here);
        let following = chaos.clone();
        let followed = tokio::spawn({
            let schedule = schedule.clone();
            async move { following.follow(&schedule).await }
        });
        self.look_on(schedule.span()).await;
        // Enter ends it sooner.
        followed.abort();
        chaos.calm();
        self.obey().await;
        self.everything_is_well_again(&visitor).await
    }

    async fn everything_is_well_again(&mut self, visitor: &Shopper) -> Result<(), Failed> {
        self.terminal.act(3, "nothing is broken any more");
        let well = Instant::now();
        let recovered = timeout_at(well + RECOVERED, async {
            while visitor.order(&[(self.products[3], 1)], GOOD_CARD).await?.status != 201 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok::<_, String>(())
        });
        let recovered = matches!(recovered.await, Ok(Ok(())));
        self.promise(
            recovered,
            format!("an order goes through again {:.1} s later", well.elapsed().as_secs_f64()),
        );
        self.look_on(self.share(20)).await;
        if let Some(load) = self.load.take() {
            self.latencies = Some(load.stop().await);
        }
        // Mails that could not be sent for too long.
        let rested = self.comes_to_rest().await;
        let letters = self.shop.broker.dead_letters();
        let redriven = letters.redrive_all(&Filter::all()).await?.redriven;
        let rested = self.comes_to_rest().await && rested;
        let left = self.shop.dead_letters().await?;
        self.promise(
            rested && left == 0,
            format!("{redriven} messages had died, were redriven, and {left} are left"),
        );
        let (on, twice) = (self.shop.chaos.on(), self.mailed_twice().await?);
        self.promise(
            on.is_empty() && twice == 0,
            format!("orders that were mailed about twice: {twice}"),
        );
        Ok(())
    }

    async fn mailed_twice(&self) -> Result<usize, Failed> {
        let mails = self.shop.notifications.mails().await?;
        Ok(mails.values().filter(|mails| **mails > 1).count())
    }

    /// What one can type to break things.
    pub(crate) fn desk_commands(&self) {
        let desk = format!("http://{}", self.desk.addr);
        let json = "-H 'content-type: application/json'";
        self.terminal.try_it(format!("curl -s {desk}/chaos   # what can be broken"));
        self.terminal
            .try_it(format!("curl -sX PUT {json} -d '{{\"on\":true}}' {desk}/chaos/payment-slow"));
        self.terminal.try_it(format!("curl -sX PUT {json} -d '{{\"rps\":100}}' {desk}/load"));
    }
}
