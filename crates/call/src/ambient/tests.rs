use super::*;
use crate::Deadline;
use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet};

fn ambient() -> Ambient {
    let cx = Context::default().with_trace(TraceContext::new_root());
    Ambient::default()
        .with_context(cx.with_deadline(Deadline::after(Duration::from_secs(9))))
        .with_attempt(Attempt::FIRST.next())
        .with_trace_state(Some("a=1".parse().unwrap()))
}

#[tokio::test]
async fn a_spawned_task_keeps_all_that_is_current_and_others_do_not() {
    let ambient = ambient();
    let spawned = ambient.sync_scope(|| spawn(async { Ambient::current() }));
    let plain = ambient.sync_scope(|| tokio::spawn(async { Ambient::current() }));
    let blocking = ambient.sync_scope(|| spawn_blocking(Ambient::current));
    let mut set = JoinSet::new();
    ambient.sync_scope(|| set.spawn(carry(async { Ambient::current() })));
    assert_eq!(spawned.await.unwrap(), ambient);
    assert_eq!(plain.await.unwrap(), Ambient::default());
    assert_eq!(blocking.await.unwrap(), ambient);
    assert_eq!(set.join_next().await.unwrap().unwrap(), ambient);
    assert_eq!(Ambient::current(), Ambient::default());
}

#[tokio::test]
async fn tasks_that_take_turns_on_one_thread_see_their_own() {
    let (one, two) = (ambient(), ambient());
    let turn = Arc::new(Notify::new());
    let seen = |mine: &Ambient| {
        let (mine, turn) = (mine.clone(), turn.clone());
        mine.clone().sync_scope(|| {
            spawn(async move {
                for _ in 0..10 {
                    assert_eq!(Ambient::current(), mine);
                    turn.notify_waiters();
                    tokio::task::yield_now().await;
                }
            })
        })
    };
    let (one, two) = (seen(&one), seen(&two));
    one.await.unwrap();
    two.await.unwrap();
}

#[tokio::test]
async fn a_context_alone_leaves_the_rest_as_it_is_where_the_future_is_polled() {
    let cx = Context::default().with_trace(TraceContext::new_root());
    let outer = ambient();
    let expected = outer.clone().with_context(cx);
    outer
        .scope(async move { assert_eq!(cx.scope(async { Ambient::current() }).await, expected) })
        .await;
}

#[tokio::test]
async fn what_a_dropped_future_drops_still_sees_what_was_current_for_it() {
    struct Noted(Arc<Mutex<Option<Ambient>>>);
    impl Drop for Noted {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Some(Ambient::current());
        }
    }
    let (ambient, noted) = (ambient(), Arc::default());
    let guard = Noted(Arc::clone(&noted));
    let task = ambient.sync_scope(|| {
        spawn(async move {
            let _guard = guard;
            pending::<()>().await;
        })
    });
    tokio::task::yield_now().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(*noted.lock().unwrap(), Some(ambient));
}

#[tokio::test]
async fn a_scope_ends_with_a_panic_and_in_the_task_alone() {
    let ambient = ambient();
    let task = ambient.sync_scope(|| spawn(async { panic!("for the test") }));
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(Ambient::current(), Ambient::default());
}

#[test]
fn work_that_outlives_the_call_has_its_trace_without_its_deadline() {
    let cx = ambient().context();
    let afterwards = cx.without_deadline();
    assert_eq!((afterwards.trace(), afterwards.deadline()), (cx.trace(), None));
}

#[test]
fn a_value_that_is_dropped_with_its_thread_finds_nothing_current() {
    thread_local! {
        static LATE: std::cell::RefCell<Option<Late>> = const { std::cell::RefCell::new(None) };
    }
    struct Late(std::sync::mpsc::Sender<Ambient>, Ambient);
    impl Drop for Late {
        fn drop(&mut self) {
            let seen = self.1.sync_scope(Ambient::current);
            let _ = self.0.send(seen);
        }
    }
    let (sender, seen) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        LATE.set(Some(Late(sender, ambient())));
        // Made after the other, and so dropped before it.
        ambient().sync_scope(|| assert_ne!(Ambient::current(), Ambient::default()));
    });
    thread.join().unwrap();
    // Which of the two is dropped first is the platform's choice; that nobody panics is not.
    let seen = seen.recv().unwrap();
    assert!(seen == Ambient::default() || seen.context.trace().is_some());
}

#[tokio::test]
async fn the_span_of_tracing_goes_along() {
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry());
    let handler = tracing::info_span!("handler");
    let task = handler.in_scope(|| spawn(async { Span::current().id() }));
    let blocking = handler.in_scope(|| spawn_blocking(|| Span::current().id()));
    assert_eq!(Span::current().id(), None);
    assert_eq!(task.await.unwrap(), handler.id());
    assert!(handler.id().is_some());
    // That thread has no subscriber of its own.
    assert_eq!(blocking.await.unwrap(), None);
}
