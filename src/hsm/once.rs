//! What one thread does for all: initialising and logging in. No lock is held while it is done.

use std::time::{Duration, Instant};

use super::sync::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering, PoisonError};

/// Something that is done once and may be lost again.
pub(super) struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// The epoch of what is done, 0 where nothing is: changed with the state, read without its lock.
    standing: AtomicU64,
}

struct State<T> {
    done: Option<T>,
    /// Who is about it, and since when.
    running: Option<(u64, Instant)>,
    /// How often somebody began.
    begun: u64,
    /// How often it was done or lost.
    epoch: u64,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        let state = State { done: None, running: None, begun: 0, epoch: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), standing: AtomicU64::new(0) }
    }
}

/// Ends a run, also where it panics.
struct Running<'a, T>(&'a Shared<T>, u64);

impl<T> Drop for Running<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Another one may have taken over.
        state.running = state.running.filter(|(runner, _)| *runner != self.1);
        drop(state);
        self.0.changed.notify_all();
    }
}

impl<T: Clone> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done, and its epoch; else does it, or waits for the thread that is about it. After somebody else's failure the next
    /// one tries. `None` where the other thread has not come back by the deadline.
    pub(super) fn get<E>(
        &self,
        deadline: Instant,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Option<Result<(T, u64), E>> {
        self.get_or_take_over(deadline, None, make)
    }

    /// The same, where a thread that has been about it for longer than `patience` is not waited for: one other takes over.
    pub(super) fn get_or_take_over<E>(
        &self,
        deadline: Instant,
        patience: Option<Duration>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Option<Result<(T, u64), E>> {
        let mut state = self.lock();
        loop {
            if let Some(done) = &state.done {
                return Some(Ok((done.clone(), state.epoch)));
            }
            let Some((_, since)) = state.running else { break };
            let now = Instant::now();
            let late = patience.and_then(|patience| since.checked_add(patience));
            if late.is_some_and(|late| now >= late) {
                break;
            }
            let left = deadline.min(late.unwrap_or(deadline)).saturating_duration_since(now);
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.begun += 1;
        let runner = state.begun;
        state.running = Some((runner, Instant::now()));
        drop(state);
        let _running = Running(self, runner);
        Some(make().map(|result| {
            let mut state = self.lock();
            // Whoever was followed by another may come second.
            if let Some(done) = &state.done {
                return (done.clone(), state.epoch);
            }
            (result.clone(), self.stand(&mut state, result))
        }))
    }

    /// Says that it was done otherwise. The result is its epoch.
    pub(super) fn put(&self, done: T) -> u64 {
        self.stand(&mut self.lock(), done)
    }

    fn stand(&self, state: &mut State<T>, done: T) -> u64 {
        state.done = Some(done);
        state.epoch += 1;
        self.standing.store(state.epoch, Ordering::Release);
        state.epoch
    }

    /// What was done, if it was.
    pub(super) fn peek(&self) -> Option<(T, u64)> {
        let state = self.lock();
        state.done.clone().map(|done| (done, state.epoch))
    }

    /// The epoch of what was done, if it was.
    pub(super) fn standing(&self) -> Option<u64> {
        match self.standing.load(Ordering::Acquire) {
            0 => None,
            epoch => Some(epoch),
        }
    }

    /// Forgets what was done in this epoch. What somebody else has done anew since stays.
    pub(super) fn lose(&self, epoch: u64) {
        let mut state = self.lock();
        if state.epoch == epoch && state.done.take().is_some() {
            state.epoch += 1;
            self.standing.store(0, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn many_threads_do_it_once() {
        let (shared, count) = (Shared::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let make = || {
                        std::thread::sleep(Duration::from_millis(5));
                        Ok::<_, ()>(count.fetch_add(1, Ordering::Relaxed))
                    };
                    assert_eq!(shared.get(soon(), make), Some(Ok((0, 1))));
                });
            }
        });
        assert_eq!(count.into_inner(), 1);
    }

    #[test]
    fn a_loss_counts_once() {
        let shared = Shared::default();
        let make = |value: u32| shared.get(soon(), move || Ok::<_, ()>(value));
        let (_, first) = make(1).unwrap().unwrap();
        shared.lose(first);
        let (value, second) = make(2).unwrap().unwrap();
        assert_eq!(value, 2);
        shared.lose(first);
        assert_eq!((shared.peek(), shared.standing()), (Some((2, second)), Some(second)));
        shared.lose(second);
        assert_eq!((shared.peek(), shared.standing()), (None, None));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let shared = Shared::<u32>::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                shared.get(soon(), || {
                    std::thread::sleep(Duration::from_millis(200));
                    Ok::<_, ()>(1)
                })
            });
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(shared.get(Instant::now(), || Ok::<_, ()>(2)), None);
        });
    }

    #[test]
    fn a_thread_that_does_not_come_back_is_followed_by_one_other() {
        let (shared, second) = (Shared::<u32>::default(), AtomicUsize::new(0));
        let pause = |milliseconds| std::thread::sleep(Duration::from_millis(milliseconds));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                shared.get(soon(), || {
                    pause(600);
                    Ok::<_, ()>(1)
                })
            });
            pause(50);
            for _ in 0..4 {
                scope.spawn(|| {
                    let take_over = shared.get_or_take_over(soon(), Some(Duration::from_millis(100)), || {
                        second.fetch_add(1, Ordering::Relaxed);
                        pause(20);
                        Ok::<_, ()>(2)
                    });
                    assert_eq!(take_over.unwrap().unwrap().0, 2);
                });
            }
            pause(300);
            assert_eq!((shared.peek().map(|(value, _)| value), second.load(Ordering::Relaxed)), (Some(2), 1));
            // What it brings at last is nobody's loss.
            assert_eq!(first.join().unwrap().unwrap().unwrap().0, 2);
            assert_eq!(shared.peek(), Some((2, 1)));
        });
    }

    #[test]
    fn after_a_failure_or_a_panic_the_next_one_tries() {
        let shared = Shared::<u32>::default();
        assert_eq!(shared.get(soon(), || Err("no")), Some(Err("no")));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            shared.get(soon(), || -> Result<u32, ()> { panic!("in the module") })
        }));
        assert!(panicked.is_err());
        assert_eq!(shared.get(soon(), || Ok::<_, ()>(3)).unwrap().unwrap().0, 3);
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Two threads meet the same loss: it is made good once, and both go on with what was made then.
    #[test]
    fn a_loss_is_made_good_once() {
        loom::model(|| {
            let shared = Arc::new((Shared::default(), AtomicUsize::new(0)));
            let later = Instant::now() + Duration::from_secs(3600);
            let get = move |shared: &(Shared<usize>, AtomicUsize)| {
                shared.0.get(later, || Ok::<_, ()>(shared.1.fetch_add(1, Ordering::SeqCst))).unwrap().unwrap()
            };
            let (first, epoch) = get(&shared);
            assert_eq!(first, 0);
            let meet_the_loss = move |shared: &(Shared<usize>, AtomicUsize)| {
                shared.0.lose(epoch);
                assert_eq!(get(shared).0, 1);
            };
            let other = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || meet_the_loss(&shared))
            };
            meet_the_loss(&shared);
            other.join().unwrap();
            assert_eq!(shared.1.load(Ordering::SeqCst), 2);
        });
    }

    /// One thread is not waited for: another takes over, and both come back. All go on with what came first, and whoever only looks at the
    /// epoch never sees it go back.
    #[test]
    fn a_take_over_leaves_one_result() {
        loom::model(|| {
            let shared = Arc::new((Shared::default(), AtomicUsize::new(0)));
            let later = Instant::now() + Duration::from_secs(3600);
            let take = move |shared: &(Shared<usize>, AtomicUsize)| {
                let make = || Ok::<_, ()>(shared.1.fetch_add(1, Ordering::SeqCst));
                shared.0.get_or_take_over(later, Some(Duration::ZERO), make).unwrap().unwrap()
            };
            let (_, epoch) = take(&shared);
            let meet_the_loss = move |shared: &(Shared<usize>, AtomicUsize)| {
                shared.0.lose(epoch);
                take(shared)
            };
            let other = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || meet_the_loss(&shared))
            };
            let reader = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || [shared.0.standing(), shared.0.standing()])
            };
            let ours = meet_the_loss(&shared);
            assert_eq!(other.join().unwrap(), ours);
            assert_eq!((shared.0.peek(), shared.0.standing()), (Some(ours), Some(ours.1)));
            let seen = reader.join().unwrap();
            assert!(seen.iter().flatten().all(|seen| [epoch, ours.1].contains(seen)));
            assert!(seen[0] != Some(ours.1) || seen[1] == seen[0], "{seen:?}");
        });
    }

    /// One thread has found out that it was lost and has done it anew without asking; another one meets the loss meanwhile. What was done
    /// anew stays.
    #[test]
    fn what_was_done_anew_is_not_lost_for_the_old_loss() {
        loom::model(|| {
            let shared = Arc::new(Shared::default());
            let epoch = shared.put(1);
            let other = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || shared.lose(epoch))
            };
            let anew = shared.put(2);
            other.join().unwrap();
            assert_eq!((shared.peek(), shared.standing()), (Some((2, anew)), Some(anew)));
        });
    }
}
