//! What the configuration declares, as the same resources that the API makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost_types::Timestamp;

use crate::endpoint::{ServedModel, derived_id};
use crate::loader::ModelKey;
use crate::protocol::generated::google::cloud::aiplatform::v1::deployed_model::Status as Health;
use crate::protocol::generated::google::cloud::aiplatform::v1::{DeployedModel, Endpoint, Model};
use crate::startup::{Plan, PlannedEndpoint};

use super::serving::healthy;
use super::state::{DEFAULT, Entry, ModelRecord, State};
use super::{names, shadow, versions};

/// The models of the repository, and the endpoints of the plan. `models` are those that were loaded.
pub fn state(plan: &Plan, models: &BTreeMap<ModelKey, Arc<ServedModel>>) -> State {
    let now = names::now();
    let mut records: BTreeMap<String, ModelRecord> = BTreeMap::new();
    for folder in plan.found() {
        let key = (folder.name.clone(), folder.version);
        let display_name = models.get(&key).map_or(&folder.name, |model| &model.display_name);
        let name = format!("{}/models/{}", plan.parent(), folder.name);
        let record = records.entry(folder.name.clone()).or_default();
        record.issued = folder.version;
        let asked = Model { display_name: display_name.clone(), ..Model::default() };
        record.versions.push(versions::made(asked, name, folder.version, now));
    }
    for record in records.values_mut() {
        // The folders come in the order of their versions, and the highest is what an endpoint takes by default.
        if let Some(last) = record.versions.last_mut() {
            last.version_aliases = vec![DEFAULT.to_owned()];
        }
    }
    let endpoints = plan.endpoints().iter().map(|planned| {
        let endpoint = endpoint(planned, plan.parent(), models, now);
        (planned.id.clone(), Entry::declared(endpoint))
    });
    let folders = plan.found().iter().map(|folder| ((folder.name.clone(), folder.version), folder.clone())).collect();
    State {
        endpoints: endpoints.collect(),
        models: records.into_iter().map(|(id, record)| (id, Entry::declared(record))).collect(),
        folders: Arc::new(folders),
    }
}

fn endpoint(
    planned: &PlannedEndpoint,
    parent: &str,
    models: &BTreeMap<ModelKey, Arc<ServedModel>>,
    now: Timestamp,
) -> Endpoint {
    let deployed_models = planned.deployed.iter().map(|deployed| {
        let model = models.get(&deployed.model);
        let (name, version) = &deployed.model;
        let skipped = Health { message: "it could not be loaded; the log has the reason".into(), ..Health::default() };
        DeployedModel {
            id: deployed.id.clone(),
            model: format!("{parent}/models/{name}"),
            model_version_id: version.to_string(),
            display_name: model.map_or(name, |model| &model.display_name).clone(),
            create_time: Some(now),
            status: model.and_then(|_| healthy()).or(Some(skipped)),
            system_labels: deployed.shadow.map(shadow::label).into_iter().collect(),
            ..DeployedModel::default()
        }
    });
    let answering = planned.deployed.iter().filter(|deployed| deployed.shadow.is_none());
    let split = answering.map(|deployed| (deployed.id.clone(), i32::from(deployed.traffic)));
    Endpoint {
        name: format!("{parent}/endpoints/{}", planned.id),
        display_name: planned.display_name.clone(),
        deployed_models: deployed_models.collect(),
        traffic_split: split.collect(),
        etag: derived_id(&[&planned.id]),
        create_time: Some(now),
        update_time: Some(now),
        ..Endpoint::default()
    }
}
