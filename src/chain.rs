//! A list that only grows, without a lock: a child of fork could inherit one that nobody opens.

use once_cell::race::OnceBox;

/// Values in the order in which they came.
pub(crate) struct Chain<T> {
    first: OnceBox<Link<T>>,
}

struct Link<T> {
    value: T,
    next: OnceBox<Link<T>>,
}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Chain<T> {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self { first: OnceBox::new() }
    }

    /// The values that are there now, the first first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::successors(self.first.get(), |link| link.next.get()).map(|link| &link.value)
    }

    /// Puts a value at the end.
    pub(crate) fn push(&self, value: T) {
        self.find_or_push(|_| false, || Some(value));
    }

    /// Puts at the end what `make` makes of the value that is the last one then; `None` puts nothing there.
    pub(crate) fn follow(&self, make: impl Fn(Option<&T>) -> Option<T>) {
        let (mut place, mut last) = (&self.first, None);
        loop {
            while let Some(link) = place.get() {
                (place, last) = (&link.next, Some(&link.value));
            }
            let Some(value) = make(last) else { return };
            // Where another thread was faster, what it has put there is followed.
            if place.set(Box::new(Link { value, next: OnceBox::new() })).is_ok() {
                return;
            }
        }
    }

    /// The first value that `is` the wanted one, else the one that `make` gives, at the end of the list.
    pub(crate) fn find_or_push(
        &self,
        is: impl Fn(&T) -> bool,
        make: impl FnOnce() -> Option<T>,
    ) -> Option<&T> {
        let mut place = &self.first;
        let mut make = Some(make);
        let mut fresh = None;
        loop {
            if let Some(link) = place.get() {
                if is(&link.value) {
                    return Some(&link.value);
                }
                place = &link.next;
                continue;
            }
            let link = match (fresh.take(), make.take()) {
                (Some(link), _) => link,
                (None, Some(make)) => Box::new(Link { value: make()?, next: OnceBox::new() }),
                (None, None) => return None,
            };
            // Where another thread was faster, its value is looked at next.
            match place.set(link) {
                Ok(()) => return place.get().map(|link| &link.value),
                Err(back) => fresh = Some(back),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_thread_follows_a_value_that_another_has_followed() {
        let chain = Chain::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    (0..50).for_each(|_| chain.follow(|last| Some(last.map_or(1, |last| last + 1))))
                });
            }
        });
        assert!(chain.iter().copied().eq(1..=400));
        chain.follow(|_| None);
        assert_eq!(chain.iter().count(), 400);
    }

    #[test]
    fn many_threads_put_one_value_there_once() {
        let chain = Chain::new();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let chain = &chain;
                scope.spawn(move || {
                    for value in 0..20 {
                        let value = (value + number) % 20;
                        assert_eq!(chain.find_or_push(|known| *known == value, || Some(value)), Some(&value));
                    }
                });
            }
        });
        let mut values: Vec<u32> = chain.iter().copied().collect();
        values.sort_unstable();
        assert_eq!(values, (0..20).collect::<Vec<_>>());
        chain.push(7);
        assert_eq!((chain.iter().count(), chain.iter().last()), (21, Some(&7)));
    }
}
