use super::MemoryRegistry;

/// A snapshot: what is taken in of it are instances that could have registered.
pub fn snapshot(data: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return;
    };
    let _inside = runtime.enter();
    let Some(instances) = super::saver::read(data) else { return };
    let registry = MemoryRegistry::default();
    let most = instances.len();
    registry.restore(instances);
    assert!(registry.stats().instances <= most);
}
