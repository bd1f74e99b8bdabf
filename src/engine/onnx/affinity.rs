//! Where the threads of a session on all cores run.
//!
//! Such a run begins on a worker that has just been woken and wakes its helpers for each operator in turn, for a few tens of
//! microseconds' work at a time. Linux likes to wake a thread where its waker runs and moves it away only when it has
//! waited for a while, so after an idle moment the threads take turns on one core while the others sleep: `imagenet`
//! answers 20 requests a second in 14 ms each instead of 10. So each helper has a CPU of its own, as ONNX Runtime
//! arranges it too where it chooses the number of threads, and the worker moves to the one that is left when it begins. It
//! isn't held there: something else may want that CPU.

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::Placement;
#[cfg(target_os = "linux")]
pub(super) use linux::Placement;

#[cfg(target_os = "linux")]
mod linux {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// The CPUs of the process, one for each thread of a session.
    pub(in super::super) struct Placement {
        all: CpuSet,
        first: CpuSet,
        helpers: Vec<usize>,
    }

    impl Placement {
        /// For a session of so many threads, the caller among them. None where the process may use more CPUs than that, as
        /// others may be busy there, or fewer.
        pub(in super::super) fn new(threads: usize) -> Option<Self> {
            Self::on(sched_getaffinity(None).ok()?, threads)
        }

        fn on(all: CpuSet, threads: usize) -> Option<Self> {
            let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu));
            let mut first = CpuSet::new();
            first.set(cpus.next()?);
            let helpers: Vec<usize> = cpus.collect();
            (threads > 1 && helpers.len() + 1 == threads).then_some(Self { all, first, helpers })
        }

        /// As ONNX Runtime's `session.intra_op_thread_affinities` wants it: CPUs from 1, `;` between helpers.
        pub(in super::super) fn helpers(&self) -> String {
            self.helpers.iter().map(|cpu| (cpu + 1).to_string()).collect::<Vec<_>>().join(";")
        }

        /// Moves the calling thread to the CPU without a helper, and lets it go again. Does nothing in a thread whose
        /// CPUs somebody has chosen since (`taskset`).
        pub(in super::super) fn step_aside(&self) {
            // No errors to tell: the run is only slower then.
            if sched_getaffinity(None).is_ok_and(|now| now == self.all) && sched_setaffinity(None, &self.first).is_ok()
            {
                let _ = sched_setaffinity(None, &self.all);
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use rustix::thread::sched_getcpu;

        use super::*;

        fn set(cpus: &[usize]) -> CpuSet {
            let mut set = CpuSet::new();
            cpus.iter().for_each(|cpu| set.set(*cpu));
            set
        }

        #[test]
        fn each_helper_has_a_cpu_and_the_first_is_left_to_the_caller() {
            let placement = |cpus: &[usize]| Placement::on(set(cpus), cpus.len()).map(|placement| placement.helpers());
            assert_eq!(placement(&[0, 1]).as_deref(), Some("2"));
            assert_eq!(placement(&[2, 3, 8, 9]).as_deref(), Some("4;9;10"));
            assert_eq!(placement(&[0]), None, "there is no helper");
        }

        #[test]
        fn where_others_may_use_the_cpus_no_thread_is_bound_to_one() {
            assert!(Placement::on(set(&[0, 1, 2, 3]), 2).is_none(), "two of four: a quota, or a setting");
            assert!(Placement::on(set(&[0, 1]), 8).is_none(), "more threads than CPUs");
            assert!(Placement::on(set(&[]), 0).is_none());
        }

        #[test]
        fn the_caller_moves_and_is_free_again() {
            let all = sched_getaffinity(None).unwrap();
            let Some(placement) = Placement::new(all.count() as usize) else { return };
            let last = placement.helpers[placement.helpers.len() - 1];
            std::thread::spawn(move || {
                sched_setaffinity(None, &set(&[last])).unwrap();
                placement.step_aside();
                assert_eq!(sched_getaffinity(None).unwrap(), set(&[last]), "somebody else's choice stays");
                sched_setaffinity(None, &all).unwrap();
                assert_eq!(sched_getcpu(), last);
                placement.step_aside();
                assert!(placement.first.is_set(sched_getcpu()));
                assert_eq!(sched_getaffinity(None).unwrap(), all);
            })
            .join()
            .unwrap();
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    /// Threads run where the system puts them.
    pub(in super::super) enum Placement {}

    impl Placement {
        pub(in super::super) fn new(_threads: usize) -> Option<Self> {
            None
        }

        pub(in super::super) fn helpers(&self) -> String {
            match *self {}
        }

        pub(in super::super) fn step_aside(&self) {
            match *self {}
        }
    }
}
