//! The registry without the balancer.

use std::{
    collections::HashMap,
    hint::black_box,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Relaxed},
        },
    },
    thread,
    time::{Duration, Instant},
};

use criterion::Criterion;
use gusset_registry::{Health, Instance, InstanceKey, Lease, MemoryRegistry, Policy, Registry};

use crate::{common::now, instance, registry};

pub(crate) fn snapshot_read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    let registry = registry(100);
    let watch = registry.watch("cart");
    let list: Arc<[Instance]> = (0..100).map(instance).collect();
    let mut read = |case: &str| {
        group.bench_function(format!("{case}/gusset"), |bencher| {
            bencher.iter(|| black_box(watch.snapshot()).instances()[50].port);
        });
        group.bench_function(format!("{case}/bare"), |bencher| {
            bencher.iter(|| black_box(list.clone())[50].port);
        });
    };
    read("snapshot_read");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| beat(&registry, &over));
        read("snapshot_read_busy");
        over.store(true, Relaxed);
    });
    group.finish();
}

/// Ten heartbeats each millisecond, also where a pause took longer than that.
fn beat(registry: &MemoryRegistry, over: &AtomicBool) {
    let ids: Vec<_> = (0..100).map(|number| instance(number).id).collect();
    let (begin, mut beats) = (Instant::now(), 0);
    while !over.load(Relaxed) {
        while beats < begin.elapsed().as_millis() * 10 {
            let id = &ids[(beats % 100) as usize];
            assert!(now(registry.heartbeat(InstanceKey::new("cart", id))).is_ok());
            beats += 1;
        }
        thread::park_timeout(Duration::from_micros(500));
    }
}

pub(crate) fn heartbeat(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    let registry = registry(100);
    let id = instance(50).id;
    group.bench_function("heartbeat/gusset", |bencher| {
        bencher.iter(|| {
            assert!(now(registry.heartbeat(InstanceKey::new("cart", black_box(&id)))).is_ok())
        });
    });
    let times = (0..100).map(|number| (instance(number).id, Instant::now()));
    let table = Mutex::new(times.collect::<HashMap<_, _>>());
    group.bench_function("heartbeat/bare", |bencher| {
        bencher.iter(|| {
            let mut table = table.lock().expect("nobody panics");
            let last = table.get_mut(black_box(&id)).expect("it is there");
            *last = Instant::now();
        });
    });
    group.finish();
}

const MANY: usize = 100_000;
/// In a TTL, as with the defaults.
const TICKS: u32 = 30;
const TICK: Duration = Duration::from_millis(1);

/// 100,000 instances of 100 services, whose ticks are made by hand.
struct Fleet {
    registry: MemoryRegistry,
    leases: Vec<Lease>,
    /// When the next tick is due.
    next: Instant,
    chance: u64,
}

impl Fleet {
    fn new() -> Self {
        let room = NonZeroUsize::new(MANY).expect("not zero");
        let policy = Policy::default().capacity(room).ttl(TICK * TICKS).sweep_every(TICK);
        let registry = MemoryRegistry::new(policy);
        let lease = |number: usize| {
            let service = format!("service-{}", number % 100);
            let instance = Instance::new(service, "10.0.0.7", 80).with_id(number.to_string());
            let instance = instance.with_health(Health::Healthy);
            let lease = registry.clone();
            now(registry.register(instance.clone())).expect("there is room");
            lease.lease(instance.key()).expect("it is registered")
        };
        let leases = (0..MANY).map(lease).collect();
        Self { registry, leases, next: Instant::now(), chance: 1 }
    }

    fn chance(&mut self) -> usize {
        self.chance = self.chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (self.chance >> 33) as usize
    }

    /// Waits until the next tick is due. What it takes.
    fn tick(&mut self) -> Duration {
        while Instant::now() < self.next {
            std::hint::spin_loop();
        }
        let begin = Instant::now();
        self.registry.sweep();
        let took = begin.elapsed();
        // A little more than an interval, so that each sweep is a tick.
        self.next = begin + TICK + TICK / 10;
        took
    }

    fn beat(&self, number: usize) {
        assert!(self.leases[number].renew().is_ok());
    }
}

pub(crate) fn fleet(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    // Most of the time is spent between what is measured.
    group.warm_up_time(Duration::from_millis(20)).measurement_time(Duration::from_millis(60));
    let mut fleet = Fleet::new();
    let mut order: Vec<usize> = (0..MANY).collect();
    for place in (1..MANY).rev() {
        order.swap(place, fleet.chance() % (place + 1));
    }
    let words: Vec<AtomicU64> = (0..MANY).map(|_| AtomicU64::new(0)).collect();

    let mut turn = 0;
    group.bench_function("heartbeat_100k/gusset", |bencher| {
        bencher.iter_custom(|beats| {
            in_rounds(beats, &mut turn, |round| {
                if round.start == 0 {
                    fleet.tick();
                }
                let begin = Instant::now();
                order[round].iter().for_each(|number| fleet.beat(*number));
                begin.elapsed()
            })
        });
    });
    group.bench_function("heartbeat_100k/bare", |bencher| {
        bencher.iter_custom(|beats| {
            in_rounds(beats, &mut turn, |round| {
                let begin = Instant::now();
                for number in &order[round] {
                    words[*number].fetch_add(black_box(1), AcqRel);
                }
                begin.elapsed()
            })
        });
    });

    // Who beats in which of the next ticks.
    let mut due = vec![Vec::new(); 16];
    (0..MANY).for_each(|number| due[number % 9].push(number));
    let mut tick = 0;
    let mut one = |fleet: &mut Fleet| {
        for number in std::mem::take(&mut due[tick % 16]) {
            fleet.beat(number);
            due[(tick + 8 + fleet.chance() % 3) % 16].push(number);
        }
        tick += 1;
        fleet.tick()
    };
    // Until all have come round, as they always do.
    (0..4 * TICKS).for_each(|_| _ = one(&mut fleet));
    group.bench_function("tick_100k/gusset", |bencher| {
        bencher.iter_custom(|ticks| (0..ticks).map(|_| one(&mut fleet)).sum());
    });
    assert_eq!(fleet.registry.stats().expired, 0, "all were heard of");
    group.finish();
}

/// Does `beats` in rounds of all instances, of which the last may be cut short and goes on the next time.
fn in_rounds(
    beats: u64,
    turn: &mut usize,
    mut round: impl FnMut(std::ops::Range<usize>) -> Duration,
) -> Duration {
    let (mut left, mut took) = (beats as usize, Duration::ZERO);
    while left > 0 {
        let end = MANY.min(*turn + left);
        left -= end - *turn;
        took += round(*turn..end);
        *turn = end % MANY;
    }
    took
}
