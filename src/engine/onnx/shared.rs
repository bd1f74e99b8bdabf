//! One session, run by several threads at once.
//!
//! `ort`'s `Session::run` takes `&mut self`, so with it each thread needs a session of its own, and each session a copy
//! of the weights. ONNX Runtime documents `Run` as safe to call from several threads on one session
//! (<https://onnxruntime.ai/docs/api/c/struct_ort_api.html>, `OrtApi::Run`), and on the CPU provider that gives the same
//! images a second from one copy (`benches/engine.rs` has the comparison). So the call is made here, below `ort`'s safe
//! face, and nowhere else. `docs/performance.md` tells what drd and helgrind see of it. Providers for GPUs keep one session a
//! thread, and so do CPUs with `engine.io_binding = "on"`.

use std::ffi::CString;
use std::ptr::{self, NonNull};

use ort::AsPointer;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::DynValue;

/// A session whose [`SharedSession::run`] takes `&self`.
pub(super) struct SharedSession {
    session: Session,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
}

impl SharedSession {
    /// Takes a session over.
    ///
    /// # Errors
    /// When a name holds a zero byte, which no C interface could pass on.
    pub(super) fn new(session: Session) -> ort::Result<Self> {
        let c_string = |name: &str| CString::new(name).map_err(|error| ort::Error::new(error.to_string()));
        let input_names = session.inputs().iter().map(|input| c_string(input.name())).collect::<ort::Result<_>>()?;
        let output_names =
            session.outputs().iter().map(|output| c_string(output.name())).collect::<ort::Result<_>>()?;
        Ok(Self { session, input_names, output_names })
    }

    /// The session, for what it says of its model.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// The session, for what only one thread at a time may do with it.
    pub(super) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Runs the model on one value for each input, in the model's order, and gives one for each output.
    ///
    /// # Errors
    /// What the runtime says.
    pub(super) fn run(
        &self,
        inputs: &[SessionInputValue<'_>],
        options: Option<&RunOptions>,
    ) -> ort::Result<Vec<DynValue>> {
        if inputs.len() != self.input_names.len() {
            return Err(ort::Error::new("wrong number of inputs"));
        }
        let input_names: Vec<_> = self.input_names.iter().map(|name| name.as_ptr()).collect();
        let input_values: Vec<_> = inputs.iter().map(|value| value.ptr()).collect();
        let output_names: Vec<_> = self.output_names.iter().map(|name| name.as_ptr()).collect();
        let mut outputs = vec![ptr::null_mut(); output_names.len()];
        // SAFETY: every pointer comes from a value that is borrowed for the whole call: the session, the options (null
        // stands for the usual ones), the names (ending in zero), the input values. The lengths are those of the arrays. The session's handle is only read on our
        // side; `Run` takes it as mutable but documents that threads may share it, and whatever it changes inside it
        // guards itself. The outputs start as null, which asks the runtime to make them.
        let status = unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                options.map_or(ptr::null(), AsPointer::ptr),
                input_names.as_ptr(),
                input_values.as_ptr(),
                input_values.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr(),
            )
        };
        // SAFETY: the status is the one that the call has just returned, and is looked at once.
        unsafe { ort::Error::result_from_status(status)? };
        outputs
            .into_iter()
            .map(|value| {
                let value = NonNull::new(value).ok_or_else(|| ort::Error::new("an output is missing"))?;
                // SAFETY: the runtime has just made it and gives it to us; the allocator is the session's, which keeps
                // what the value needs alive.
                Ok(unsafe { DynValue::from_ptr(value, Some(self.session.allocator())) })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::engine::Item;
    use crate::engine::onnx::session::ModelSession;
    use crate::engine::onnx::{OnnxOptions, Provider, library};
    use crate::tensor::{ElementType, Tensor};

    /// Also what is run under drd and helgrind (`docs/performance.md`), hence two models that show the kernels of either
    /// kind, and no more runs than take a minute there.
    #[test]
    fn many_callers_of_one_session_get_the_bits_of_a_lone_one() {
        for (model, shape) in [("tests/models/colour/1", [1, 3, 32, 32]), ("models/fashion-vit/1", [1, 3, 224, 224])] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(model).join("model.onnx");
            let environment = library::environment(None).unwrap();
            let session =
                ModelSession::open(&environment, &path, Provider::Cpu, 1, &OnnxOptions::default(), None).unwrap();
            let zeros = Tensor::zeros(ElementType::Float32, &shape);
            let items: Vec<Item> = (0..4).map(|seed| vec![zeros.with_pattern(seed * 100)]).collect();
            let run = |item: &Item| session.run(std::slice::from_ref(item)).unwrap();
            let lone: Vec<_> = items.iter().map(run).collect();
            assert_ne!(lone[0], lone[1]);
            std::thread::scope(|scope| {
                for (item, lone) in items.iter().zip(&lone) {
                    scope.spawn(|| (0..8).for_each(|_| assert_eq!(run(item), *lone)));
                }
            });
        }
    }
}
