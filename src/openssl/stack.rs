//! A stack with room. An asynchronous job has 32 KiB of it, without a guard page; a PKCS#11 module that is called there may want more, and
//! would write over the heap.

use std::any::Any;
use std::ffi::{c_int, c_uint, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;

/// What a thread of Rust's has. The system gives only what is used of it.
const SIZE: usize = 2 << 20;
/// Below it nothing can be written. More than a page of any system.
const GUARD: usize = 64 << 10;

/// Memory for a stack.
struct Mapping(*mut c_void);

impl Mapping {
    fn new() -> Option<Self> {
        const { assert!(SIZE > GUARD) };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        // SAFETY: a fresh mapping of nobody else's.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let mapping = Self(start);
        // SAFETY: the beginning of our own mapping, which nobody uses yet.
        (unsafe { libc::mprotect(start, GUARD, libc::PROT_NONE) } == 0).then_some(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, on which nothing runs any more.
        unsafe { libc::munmap(self.0, SIZE) };
    }
}

/// What runs on the other stack, and what became of it.
struct Call<'a> {
    work: Option<&'a mut dyn FnMut()>,
    panic: Option<Box<dyn Any + Send>>,
}

/// Runs `work` on this thread and on a stack of its own. It comes back on the thread on which it began: it pauses no job. Where the system
/// has no memory for a stack it runs on the present one.
pub(super) fn with_room<R>(work: impl FnOnce() -> R) -> R {
    let Some(stack) = Mapping::new() else { return work() };
    let (mut work, mut result) = (Some(work), None);
    let mut body = || result = work.take().map(|work| work());
    let mut call = Call { work: Some(&mut body), panic: None };
    // They are large, and what there is little of is stack.
    let mut back = Box::new(MaybeUninit::<libc::ucontext_t>::zeroed());
    let mut there = Box::new(MaybeUninit::<libc::ucontext_t>::zeroed());
    let address = (&raw mut call).expose_provenance() as u64;
    // SAFETY: two contexts that live until both are done with: `there` is completed by getcontext before anything in it is changed, and
    // ends by going on with `back`, which swapcontext has written by then. Its stack is the mapping above the guard. `enter` takes the two
    // halves of the address of `call`, which outlives it; makecontext passes numbers of the size of an int only.
    let switched = unsafe {
        let there = there.as_mut_ptr();
        libc::getcontext(there) == 0 && {
            (*there).uc_stack.ss_sp = stack.0.byte_add(GUARD);
            (*there).uc_stack.ss_size = SIZE - GUARD;
            (*there).uc_link = back.as_mut_ptr();
            let entry = std::mem::transmute::<extern "C" fn(c_uint, c_uint), extern "C" fn()>(enter);
            libc::makecontext(there, entry, 2 as c_int, (address >> 32) as c_uint, address as c_uint);
            libc::swapcontext(back.as_mut_ptr(), there) == 0
        }
    };
    if !switched {
        enter((address >> 32) as c_uint, address as c_uint);
    }
    if let Some(panic) = call.panic {
        resume_unwind(panic);
    }
    match result {
        Some(result) => result,
        None => unreachable!("the work was run"),
    }
}

extern "C" fn enter(high: c_uint, low: c_uint) {
    let address = (u64::from(high) << 32 | u64::from(low)) as usize;
    // SAFETY: the address of the `call` in `with_room`, which waits for this.
    let call = unsafe { &mut *ptr::with_exposed_provenance_mut::<Call>(address) };
    if let Some(work) = call.work.take() {
        call.panic = catch_unwind(AssertUnwindSafe(work)).err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_much_and_what_is_made_comes_back() {
        let text = String::from("what is made");
        let made = with_room(|| {
            let area = std::hint::black_box([7_u8; 256 << 10]);
            format!("{text} {}", area.iter().map(|octet| usize::from(*octet)).sum::<usize>())
        });
        assert_eq!(made, format!("what is made {}", 7 * (256 << 10)));
    }

    #[test]
    fn a_panic_goes_on_where_the_caller_is() {
        let panic = catch_unwind(|| with_room(|| resume_unwind(Box::new("on purpose"))));
        assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"on purpose"));
    }
}
