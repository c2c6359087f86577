//! What a registry knows after it was started again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Duration,
};

use gusset_registry::{
    Health, Instance, InstanceKey, MemoryRegistry, Policy, Registration, Registry, Saver,
    SnapshotError,
};
use tokio::time::sleep;

const OFTEN: Duration = Duration::from_millis(10);

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gusset-{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("registry.json")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with(".lock"));
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn instance(id: &str) -> Instance {
    Instance::new("cart", "10.0.0.7", 80).with_id(id).with_health(Health::Healthy)
}

fn start(path: &Path) -> (MemoryRegistry, Saver) {
    let registry = MemoryRegistry::default();
    let saver = registry.spawn_saver(path, OFTEN).unwrap();
    (registry, saver)
}

#[tokio::test(start_paused = true)]
async fn a_restarted_registry_serves_who_was_there_as_suspect_until_a_heartbeat() {
    let folder = Folder::new();
    let (registry, saver) = start(&folder.file());
    for instance in [instance("a"), instance("b").with_zone("z"), instance("left")] {
        registry.register(instance).await.unwrap();
    }
    registry.drain(InstanceKey::new("cart", "b")).await.unwrap();
    registry.deregister(InstanceKey::new("cart", "left")).await.unwrap();
    saver.close().await.unwrap();
    drop(registry);

    let (registry, _saver) = start(&folder.file());
    let _sweeper = registry.spawn_sweeper();
    let snapshot = registry.discover("cart").await.unwrap();
    let (a, b) = (snapshot.get("a").unwrap(), snapshot.get("b").unwrap());
    assert_eq!((a.health, a.suspect), (Health::Healthy, true));
    assert_eq!((b.health, b.zone.as_deref()), (Health::Draining, Some("z")));
    assert_eq!((snapshot.instances().len(), snapshot.is_suspect()), (2, true));

    registry.heartbeat(InstanceKey::new("cart", "a")).await.unwrap();
    assert!(!registry.instances("cart").await.unwrap().get("a").unwrap().suspect);
    for _ in 0..8 {
        sleep(Duration::from_secs(5)).await;
        registry.heartbeat(InstanceKey::new("cart", "a")).await.unwrap();
    }
    let snapshot = registry.instances("cart").await.unwrap();
    assert_eq!(snapshot.get("a").unwrap().health, Health::Healthy);
    assert_eq!(snapshot.get("b").unwrap().health, Health::Unhealthy, "it was never heard of");
}

#[tokio::test(start_paused = true)]
async fn what_was_checked_and_has_no_checks_any_more_is_not_kept_for_ever() {
    let folder = Folder::new();
    let (registry, saver) = start(&folder.file());
    for id in ["orphan", "kept"] {
        registry.register(instance(id).with_checks()).await.unwrap();
    }
    saver.close().await.unwrap();
    let (registry, _saver) = start(&folder.file());
    let _sweeper = registry.spawn_sweeper();
    registry.report(InstanceKey::new("cart", "kept"), true).unwrap();
    sleep(Duration::from_secs(100)).await;
    let snapshot = registry.instances("cart").await.unwrap();
    assert!(snapshot.get("orphan").is_none());
    assert_eq!(snapshot.get("kept").unwrap().health, Health::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_registration_over_a_restart_is_never_absent() {
    let folder = Folder::new();
    let (registry, saver) = start(&folder.file());
    let registration = Registration::spawn(registry.clone(), instance("a"));
    registration.registered().await.unwrap();
    let known = registration.instance().clone();
    saver.close().await.unwrap();
    drop(registry);

    let (registry, _saver) = start(&folder.file());
    assert!(registry.discover("cart").await.is_ok());
    registry.heartbeat(known.key()).await.unwrap();
    assert!(!registry.instances("cart").await.unwrap().is_suspect());
}

#[tokio::test(start_paused = true)]
async fn a_file_of_this_format_is_read_by_every_later_release() {
    let folder = Folder::new();
    fs::write(folder.file(), include_bytes!("fixtures/snapshot-1.json")).unwrap();
    let (registry, _saver) = start(&folder.file());
    let snapshot = registry.instances("cart").await.unwrap();
    let cart = snapshot.get("10.0.0.7:80").unwrap();
    assert_eq!((cart.version.as_deref(), cart.weight.get()), (Some("1.2.3"), 7));
    assert_eq!((cart.incarnation, cart.suspect), (1_763_740_800_000_000, true));
    assert!(cart.tags.contains("blue") && cart.metadata["canary"] == "yes");
    let staging = registry.instances("staging/cart").await.unwrap();
    assert_eq!(staging.get("b").unwrap().health, Health::Draining);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_file_is_moved_aside_and_a_newer_one_left_alone() {
    let folder = Folder::new();
    for (n, broken) in ["", "{", r#"{"format":1}"#, "[]"].into_iter().enumerate() {
        fs::write(folder.file(), broken).unwrap();
        let registry = MemoryRegistry::default();
        let error = registry.spawn_saver(folder.file(), OFTEN).unwrap_err();
        let SnapshotError::Unreadable { moved_to, .. } = error else { panic!("{error}") };
        assert_eq!(fs::read_to_string(&moved_to).unwrap(), broken);
        assert_eq!(folder.names().len(), n + 1, "the earlier ones are there as well");
    }
    let newer = r#"{"format":2,"shards":[]}"#;
    fs::write(folder.file(), newer).unwrap();
    let error = MemoryRegistry::default().spawn_saver(folder.file(), OFTEN).unwrap_err();
    assert!(matches!(error, SnapshotError::Newer { format: 2, .. }), "{error}");
    assert_eq!(fs::read_to_string(folder.file()).unwrap(), newer);
}

/// The process was killed while it wrote, before the new file took the place of the old one.
#[tokio::test(start_paused = true)]
async fn half_a_file_that_a_crash_left_behind_is_nobody_s_loss() {
    let folder = Folder::new();
    let (registry, saver) = start(&folder.file());
    registry.register(instance("a")).await.unwrap();
    saver.close().await.unwrap();
    let whole = fs::read(folder.file()).unwrap();
    fs::write(folder.0.join("registry.json.new"), &whole[..whole.len() / 2]).unwrap();
    let (registry, saver) = start(&folder.file());
    assert!(registry.discover("cart").await.is_ok());
    registry.register(instance("b")).await.unwrap();
    saver.close().await.unwrap();
    assert_eq!(folder.names(), ["registry.json"]);
    let (registry, _saver) = start(&folder.file());
    assert_eq!(registry.instances("cart").await.unwrap().instances().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_not_written_and_changes_not_more_often_than_said() {
    let folder = Folder::new();
    let registry = MemoryRegistry::default();
    let saver = registry.spawn_saver(folder.file(), Duration::from_secs(10)).unwrap();
    registry.register(instance("a")).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(folder.names().is_empty(), "not yet");
    sleep(Duration::from_secs(6)).await;
    // The write itself is on a thread, which paused time does not wait for.
    saver_is_done(&folder).await;
    fs::remove_file(folder.file()).unwrap();
    for _ in 0..10 {
        sleep(Duration::from_secs(10)).await;
        registry.heartbeat(InstanceKey::new("cart", "a")).await.unwrap();
    }
    saver.close().await.unwrap();
    assert!(folder.names().is_empty(), "nothing changed");
}

async fn saver_is_done(folder: &Folder) {
    while folder.names() != ["registry.json"] {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_gone_is_said_and_survived() {
    let folder = Folder::new();
    let (registry, saver) = start(&folder.file());
    fs::remove_dir_all(&folder.0).unwrap();
    registry.register(instance("a")).await.unwrap();
    while registry.stats().unsaved == 0 {
        sleep(OFTEN).await;
    }
    fs::create_dir(&folder.0).unwrap();
    saver.close().await.unwrap();
    assert_eq!(folder.names(), ["registry.json"]);
}

#[tokio::test(start_paused = true)]
async fn more_than_fits_is_left_out_and_counted() {
    let folder = Folder::new();
    let (registry, saver) = start(&folder.file());
    for id in ["a", "b", "c"] {
        registry.register(instance(id)).await.unwrap();
    }
    saver.close().await.unwrap();
    let small = MemoryRegistry::new(Policy::default().capacity(NonZeroUsize::new(2).unwrap()));
    let _saver = small.spawn_saver(folder.file(), OFTEN).unwrap();
    assert_eq!((small.stats().instances, small.stats().refused), (2, 1));
}

#[tokio::test]
async fn a_file_is_kept_by_one_registry_at_a_time_and_read_by_its_owner_alone() {
    let folder = Folder::new();
    let (registry, saver) = start(&folder.file());
    registry.register(instance("a")).await.unwrap();
    let refused = MemoryRegistry::default().spawn_saver(folder.file(), OFTEN).unwrap_err();
    assert!(matches!(refused, SnapshotError::InUse { .. }), "{refused}");
    saver.close().await.unwrap();
    #[cfg(unix)]
    for name in folder.names() {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(folder.0.join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    let (registry, _saver) = start(&folder.file());
    assert!(registry.discover("cart").await.is_ok());
}
