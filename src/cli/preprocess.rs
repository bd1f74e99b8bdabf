//! `tessera preprocess`: the tensor that a model would see, for comparison with training code.

use super::args::{self, PreprocessArgs, PreprocessBy};
use super::{Failure, local, npy};
use crate::config::Settings;
use crate::preprocess::{PreprocessOverrides, PreprocessSpec, Preprocessor, Preset};
use crate::repository;
use crate::startup::decode_limits;
use crate::task::Task;

/// Writes the tensor of one picture.
pub fn run(arguments: &PreprocessArgs, settings: &Settings) -> Result<(), Failure> {
    let preprocessor = preprocessor(&arguments.by, settings)?;
    let bytes = local::read_image(&arguments.image)?;
    let [a, b, c] = preprocessor.output_shape();
    let mut tensor = vec![0f32; a * b * c];
    let limits = decode_limits(settings);
    preprocessor.run(&bytes, &limits, &mut tensor).map_err(Failure::new)?;
    npy::write(&arguments.output, &[1, a, b, c], &tensor)
        .map_err(|error| Failure(format!("{}: {error}", arguments.output.display())))?;
    println!("{}: float32 [1, {a}, {b}, {c}]", arguments.output.display());
    Ok(())
}

fn preprocessor(by: &PreprocessBy, settings: &Settings) -> Result<Preprocessor, Failure> {
    let spec = match (by.preset, &by.preprocessor_config) {
        (Some(preset), _) => PreprocessSpec::from_preset(preset.into()),
        (None, Some(path)) => {
            let text =
                std::fs::read_to_string(path).map_err(|error| Failure(format!("{}: {error}", path.display())))?;
            PreprocessSpec::resolve(&PreprocessOverrides::default(), Some(&text)).map_err(Failure::new)?
        }
        (None, None) => {
            let folder = local::choose(settings, by.model.as_deref())?;
            let (_, _, task) = repository::describe(&folder, &local::options_alone(settings))
                .map_err(|error| Failure(format!("model {:?}: {error}", folder.name)))?;
            return match task {
                Task::ImageClassification(task) => Ok(task.preprocessor),
                Task::Tensors(task) => Err(local::no_images(&task, &folder.name)),
            };
        }
    };
    Preprocessor::new(spec).map_err(Failure::new)
}

impl From<args::Preset> for Preset {
    fn from(preset: args::Preset) -> Self {
        match preset {
            args::Preset::Tf => Self::Tensorflow,
            args::Preset::Hf => Self::HuggingFace,
            args::Preset::HfFast => Self::HuggingFaceFast,
        }
    }
}
