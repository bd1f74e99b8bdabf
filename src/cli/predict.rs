//! `tessera predict`: labels for pictures, without a server.

use std::io::Write;
use std::sync::Arc;

use serde::Serialize;

use super::args::PredictArgs;
use super::table::Table;
use super::{Failure, is_for_people, local, remark};
use crate::config::Settings;
use crate::engine::Engine;
use crate::repository::LoadedModel;
use crate::task::image_classification::{Classification, Form};
use crate::task::{Instance, Parameters, Prediction, Task};

/// Classifies each picture; one that can't be read is reported and doesn't keep the others from being answered.
pub fn run(arguments: &PredictArgs, settings: &Settings, out: &mut dyn Write) -> Result<(), Failure> {
    let folder = local::choose(settings, arguments.model.as_deref())?;
    if is_for_people() {
        remark(format_args!("Loading {} ...", folder.name));
    }
    let model = local::load_alone(settings, &folder)?;
    if let Task::Tensors(task) = &*model.task {
        return Err(local::no_images(task, &folder.name));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let count = usize::try_from(arguments.top_k.unwrap_or(1)).unwrap_or(usize::MAX);
    let mut table = Table::new(["image", "label", "confidence"]);
    let mut failed = 0;
    for source in &arguments.images {
        let image = local::image_name(source);
        let labels = match local::read_image(source).and_then(|bytes| runtime.block_on(classify(&model, bytes, count)))
        {
            Ok(labels) => labels,
            Err(Failure(reason)) => {
                remark(format_args!("error: {image}: {reason}"));
                failed += 1;
                continue;
            }
        };
        for (label, confidence) in labels {
            if arguments.json {
                writeln!(
                    out,
                    "{}",
                    serde_json::to_string(&Line { image: &image, label: &label, confidence }).map_err(Failure::new)?
                )?;
            } else {
                table.row([image.clone(), label.to_string(), format!("{confidence:.4}")]);
            }
        }
    }
    if !arguments.json {
        table.print(out)?;
    }
    match failed {
        0 => Ok(()),
        failed => Err(Failure(format!("{failed} of {} images could not be classified", arguments.images.len()))),
    }
}

/// What `--json` prints for one label. The confidence keeps the form that the server gives it.
#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    label: &'a str,
    confidence: f32,
}

async fn classify(model: &LoadedModel, bytes: bytes::Bytes, count: usize) -> Result<Vec<(Arc<str>, f32)>, Failure> {
    let prepared = model.task.prepare(&Instance::Encoded(bytes)).map_err(|error| Failure(error.message))?;
    let outcome = model.engine.run(Arc::from([prepared.item])).await.map_err(Failure::new)?;
    let outputs = outcome.outputs.into_iter().next().unwrap_or_default();
    let form = Parameters::ImageClassification(Form::TopK(count));
    let Prediction::ImageClassification(prediction) = model.task.finish(&outputs, form).map_err(Failure::new)? else {
        return Err(Failure("this model doesn't answer with labels".to_owned()));
    };
    Ok(match prediction {
        Classification::TopK { labels, confidences } => labels.into_iter().zip(confidences).collect(),
        Classification::Best { label, confidence } => vec![(label, confidence)],
        Classification::Vertex { display_names, confidences, .. } => {
            display_names.into_iter().zip(confidences).collect()
        }
    })
}
