//! Octets that are mostly few: up to `N` of them take no memory from the allocator.

use std::ops::{Deref, DerefMut};

use zeroize::Zeroize;

/// A fixed number of octets.
#[derive(Clone)]
pub struct Octets<const N: usize> {
    length: usize,
    /// Where they are up to `N` of them.
    few: [u8; N],
    many: Vec<u8>,
}

impl<const N: usize> Octets<N> {
    /// None yet.
    #[inline]
    pub const fn empty() -> Self {
        Self { length: 0, few: [0; N], many: Vec::new() }
    }

    /// So many zeros.
    #[inline]
    pub fn zeros(length: usize) -> Self {
        let mut octets = Self::empty();
        octets.become_zeros(length);
        octets
    }

    /// So many zeros, where there are none yet.
    #[inline]
    pub fn become_zeros(&mut self, length: usize) {
        if length > N {
            self.many = vec![0; length];
        }
        self.length = length;
    }

    /// A copy of two parts, one after the other.
    #[inline]
    pub fn of(first: &[u8], second: &[u8]) -> Self {
        let mut octets = Self::zeros(first.len() + second.len());
        let (one, two) = octets.split_at_mut(first.len());
        one.copy_from_slice(first);
        two.copy_from_slice(second);
        octets
    }

    /// The first of them only.
    pub fn truncate(&mut self, length: usize) {
        let length = self.length.min(length);
        if length <= N && self.length > N {
            self.few[..length].copy_from_slice(&self.many[..length]);
        }
        self.length = length;
    }
}

/// For octets that are a secret.
impl<const N: usize> Zeroize for Octets<N> {
    fn zeroize(&mut self) {
        self.few.zeroize();
        self.many.zeroize();
    }
}

impl<const N: usize> Deref for Octets<N> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let length = self.length;
        if length <= N { &self.few[..length] } else { &self.many[..length] }
    }
}

impl<const N: usize> DerefMut for Octets<N> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let length = self.length;
        if length <= N { &mut self.few[..length] } else { &mut self.many[..length] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_the_same_octets() {
        for length in [0, 1, 4, 5, 100] {
            let whole: Vec<u8> = (0..length).collect();
            let (one, other) = whole.split_at(whole.len() / 3);
            let mut octets = Octets::<4>::of(one, other);
            assert_eq!(*octets, whole[..]);
            assert_eq!(octets.many.is_empty(), length <= 4);
            octets.truncate(usize::from(length / 2));
            assert_eq!(*octets, whole[..usize::from(length / 2)]);
            assert_eq!(*Octets::<4>::zeros(length.into()), vec![0; length.into()]);
        }
    }
}
