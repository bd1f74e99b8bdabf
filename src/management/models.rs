//! `ModelService`: models, their versions and aliases.

use std::collections::HashMap;
use std::sync::Arc;

use prost_types::Timestamp;

use crate::artifact::ArtifactUri;
use crate::auth;
use crate::protocol::generated::google::cloud::aiplatform::v1::{
    DeleteModelRequest, DeleteModelVersionRequest, DeleteOperationMetadata, DeployedModelRef, GetModelRequest,
    ListModelVersionsRequest, ListModelVersionsResponse, ListModelsRequest, ListModelsResponse,
    MergeVersionAliasesRequest, Model, ModelContainerSpec, UpdateModelRequest, UploadModelOperationMetadata,
    UploadModelRequest, UploadModelResponse,
};
use crate::protocol::generated::google::longrunning::Operation;
use crate::protocol::status::{Code, Status};

use super::filter::Filtered;
use super::listing::{self, Listed, Query};
use super::names::{self, Name};
use super::operations::{any, done, generic};
use super::state::{Change, DEFAULT, ModelRecord, State, shown};
use super::versions::{AliasChange, etag, made};
use super::{Caller, Management, masks};

/// The longest display name, in characters.
const NAME_LENGTH: usize = 128;

/// Refuses what people could not read.
pub fn check_display_name(field: &str, name: &str) -> Result<(), Status> {
    match name.chars().count() {
        0 => Err(Status::bad_field(field, format!("{field} is missing"))),
        count if count > NAME_LENGTH => {
            Err(Status::bad_field(field, format!("{field} has {count} characters; it may have up to {NAME_LENGTH}")))
        }
        _ => Ok(()),
    }
}

/// The most labels of a resource, and the most characters of a label's key and of its value.
const LABELS: usize = 64;
const LABEL_LENGTH: usize = 63;

/// Refuses labels that Vertex AI would not take: letters that aren't upper-case ones, digits, `-` and `_`; a key begins
/// with a letter, a value may be empty.
pub fn check_labels(field: &str, labels: &HashMap<String, String>) -> Result<(), Status> {
    let is_letter = |character: char| character.is_alphabetic() && !character.is_uppercase();
    let is_other = |character: char| character.is_numeric() || matches!(character, '-' | '_');
    let is_label = |text: &str| {
        text.chars().count() <= LABEL_LENGTH
            && text.chars().all(|character| is_letter(character) || is_other(character))
    };
    if labels.len() > LABELS {
        return Err(Status::bad_field(field, format!("{field} has {} entries; there may be {LABELS}", labels.len())));
    }
    for (key, value) in labels {
        let field = format!("{field}[{:?}]", shown(key));
        let rule = format!("up to {LABEL_LENGTH} lower-case letters, digits, hyphens and underscores");
        if !is_label(key) || !key.starts_with(is_letter) {
            let message = format!("{field} can't be a label's key, which has {rule}, and begins with a letter");
            return Err(Status::bad_field(field, message));
        }
        if !is_label(value) {
            let message = format!("{field} is {:?}; a label's value has {rule}", shown(value));
            return Err(Status::bad_field(field, message));
        }
    }
    Ok(())
}

/// Refuses what can't be an artifact's URI. None at all is for a model whose files come otherwise.
fn check_artifact(field: &str, uri: &str) -> Result<(), Status> {
    match uri.is_empty() {
        true => Ok(()),
        false => match ArtifactUri::parse(uri) {
            Ok(_) => Ok(()),
            Err(error) => Err(Status::bad_field(field, format!("{field}: {error}"))),
        },
    }
}

/// Refuses a change of something that has changed since its caller looked at it.
pub fn check_etag(asked: &str, found: &str) -> Result<(), Status> {
    if asked.is_empty() || asked == found {
        return Ok(());
    }
    let message = "etag is not that of the resource's present state: read it again, and repeat the change";
    Err(Status { field: Some("etag".to_owned()), ..Status::new(Code::Aborted, message) })
}

fn missing(field: &str) -> Status {
    Status::bad_field(field, format!("{field} is missing"))
}

/// A deletion, done.
pub fn deleted(caller: &Caller, resource: &str, now: Timestamp) -> Operation {
    let metadata = DeleteOperationMetadata { generic_metadata: generic(now, now) };
    done(resource, caller.version, now, any(&metadata), any(&()))
}

/// An operation as a change keeps it.
pub fn kept(operation: &Operation) -> (String, Option<Operation>) {
    (names::id_of(&operation.name).to_owned(), Some(operation.clone()))
}

/// A model's own paths are all of them, and instead of the predict route.
fn check_invoke(container: Option<&ModelContainerSpec>) -> Result<(), Status> {
    let field = "model.container_spec.invoke_route_prefix";
    match container.map(|spec| (spec.invoke_route_prefix.as_str(), spec.predict_route.is_empty())) {
        None | Some(("", _) | ("/*", true)) => Ok(()),
        Some(("/*", false)) => {
            Err(Status::bad_field(field, format!("{field} and predict_route exclude each other: give one of them")))
        }
        Some((other, _)) => Err(Status::bad_field(field, format!("{field} must be \"/*\"; it is {:?}", shown(other)))),
    }
}

impl Management {
    /// `UploadModel`: a model, or a version more of one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS.
    pub async fn upload_model(
        self: &Arc<Self>,
        caller: Caller,
        request: UploadModelRequest,
    ) -> Result<Operation, Status> {
        names::check_unrestricted()?;
        self.detached(|this| async move { this.upload(caller, request).await }).await
    }

    async fn upload(&self, caller: Caller, request: UploadModelRequest) -> Result<Operation, Status> {
        let parent = names::parent("parent", &request.parent)?;
        let asked = request.model.ok_or_else(|| missing("model"))?;
        check_display_name("model.display_name", &asked.display_name)?;
        check_labels("model.labels", &asked.labels)?;
        check_artifact("model.artifact_uri", &asked.artifact_uri)?;
        check_invoke(asked.container_spec.as_ref())?;
        let aliases = AliasChange::parse("model.version_aliases", &asked.version_aliases)?;
        let writer = self.writer.lock().await;
        let (state, now) = (self.state()?, names::now());
        let (id, mut record) = match request.parent_model.as_str() {
            "" => (new_id(&state, &request.model_id)?, ModelRecord::default()),
            _ if !request.model_id.is_empty() => {
                let message = "model_id is for a new model, parent_model for a new version of one: give one of them";
                return Err(Status::bad_field("model_id", message));
            }
            text => {
                // Some clients give the id alone.
                let name = match text.contains('/') {
                    true => names::model("parent_model", text)?,
                    false => names::model("parent_model", &format!("{parent}/models/{text}"))?,
                };
                let record = state.changeable_model(&name)?.clone();
                (name.id, record)
            }
        };
        record.issued += 1;
        let name = record.versions.first().map_or(format!("{parent}/models/{id}"), |first| first.name.clone());
        let mut model = made(asked, name, record.issued, now);
        let version = model.version_id.clone();
        if let Some(first) = record.versions.first() {
            model.create_time = first.create_time;
        }
        let is_first = record.versions.is_empty();
        record.versions.push(model);
        record.realias(&version, &aliases, now);
        if is_first && !aliases.added().iter().any(|alias| alias == DEFAULT) {
            let default = AliasChange::parse("", &[DEFAULT.to_owned()])?;
            record.realias(&version, &default, now);
        }
        let resource = format!("{parent}/models/{id}");
        let metadata = UploadModelOperationMetadata { generic_metadata: generic(now, now) };
        let response = UploadModelResponse { model: resource.clone(), model_version_id: version };
        let operation = done(&resource, caller.version, now, any(&metadata), any(&response));
        let change =
            Change { models: vec![(id, Some(record))], operations: vec![kept(&operation)], ..Change::default() };
        self.commit(&writer, change, None).await?;
        Ok(operation)
    }

    /// `GetModel`: the default version, or the one behind `@`.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn get_model(&self, request: &GetModelRequest) -> Result<Model, Status> {
        let state = self.state()?;
        let name = names::model("name", &request.name)?;
        names::check_model(is_on_permitted(&state, &name.id))?;
        Ok(view(&state, state.version(&name)?, &name.parent))
    }

    /// `ListModels`: each in its default version.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for what can't be read of the question.
    pub fn list_models(&self, request: &ListModelsRequest) -> Result<ListModelsResponse, Status> {
        let state = self.state()?;
        let parent = names::parent("parent", &request.parent)?;
        let query = Query {
            filter: &request.filter,
            order_by: &request.order_by,
            page_size: request.page_size,
            page_token: &request.page_token,
        };
        let permitted = state.models.iter().filter(|(id, _)| names::check_model(is_on_permitted(&state, id)).is_ok());
        let models = permitted.filter_map(|(_, entry)| entry.value.find(None)).map(Version);
        let (page, next_page_token) = listing::page(models, &query)?;
        let models = page
            .into_iter()
            .map(|Version(model)| masks::readable(view(&state, model, &parent), request.read_mask.as_ref()));
        Ok(ListModelsResponse { models: models.collect::<Result<_, _>>()?, next_page_token })
    }

    /// `ListModelVersions`
    ///
    /// # Errors
    /// NOT_FOUND; INVALID_ARGUMENT for what can't be read of the question.
    pub fn list_model_versions(&self, request: &ListModelVersionsRequest) -> Result<ListModelVersionsResponse, Status> {
        let state = self.state()?;
        let name = names::model("name", &request.name)?;
        names::check_model(is_on_permitted(&state, &name.id))?;
        let record = &state.model(&name)?.value;
        let query = Query {
            filter: &request.filter,
            order_by: &request.order_by,
            page_size: request.page_size,
            page_token: &request.page_token,
        };
        let (page, next_page_token) = listing::page(record.versions.iter().map(Version), &query)?;
        let models = page.into_iter().map(|Version(model)| {
            let mut model = view(&state, model, &name.parent);
            // Only here does the name say which version it is.
            model.name = format!("{}@{}", model.name, model.version_id);
            masks::readable(model, request.read_mask.as_ref())
        });
        Ok(ListModelVersionsResponse { models: models.collect::<Result<_, _>>()?, next_page_token })
    }

    /// `UpdateModel`: without `@`, or with `@-`, the model's name, description and labels; with a version, that version's
    /// description and labels.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION for a declared model, ABORTED for an old etag.
    pub async fn update_model(self: &Arc<Self>, request: UpdateModelRequest) -> Result<Model, Status> {
        names::check_unrestricted()?;
        self.detached(|this| async move { this.update(request).await }).await
    }

    async fn update(&self, request: UpdateModelRequest) -> Result<Model, Status> {
        let asked = request.model.ok_or_else(|| missing("model"))?;
        let name = names::model("model.name", &asked.name)?;
        let of_version = name.version.as_deref().is_some_and(|version| version != "-");
        let changeable: &[&str] = match of_version {
            true => &["version_description", "labels"],
            false => &["display_name", "description", "labels", "version_description"],
        };
        let fields = masks::to_update(request.update_mask.as_ref(), changeable)?;
        if fields.contains(&"display_name") {
            check_display_name("model.display_name", &asked.display_name)?;
        }
        if fields.contains(&"labels") {
            check_labels("model.labels", &asked.labels)?;
        }
        let writer = self.writer.lock().await;
        let (state, now) = (self.state()?, names::now());
        let mut record = state.changeable_model(&name)?.clone();
        let found = state.version(&name)?;
        check_etag(&asked.etag, &found.etag)?;
        let version = found.version_id.clone();
        for model in &mut record.versions {
            let is_it = model.version_id == version;
            for field in &fields {
                match *field {
                    "display_name" => model.display_name.clone_from(&asked.display_name),
                    "description" => model.description.clone_from(&asked.description),
                    "labels" if is_it || !of_version => model.labels.clone_from(&asked.labels),
                    "version_description" if is_it => model.version_description.clone_from(&asked.version_description),
                    _ => {}
                }
            }
            if is_it || !of_version {
                (model.update_time, model.etag) = (Some(now), etag(now));
            }
            if is_it {
                model.version_update_time = Some(now);
            }
        }
        self.replace(&writer, &name, record).await
    }

    /// Keeps a model's new state and shows the version that its name means.
    async fn replace(
        &self,
        writer: &tokio::sync::MutexGuard<'_, super::Writer>,
        name: &Name,
        record: ModelRecord,
    ) -> Result<Model, Status> {
        let change = Change { models: vec![(name.id.clone(), Some(record))], ..Change::default() };
        self.commit(writer, change, None).await?;
        let state = self.state()?;
        Ok(view(&state, state.version(name)?, &name.parent))
    }

    /// `MergeVersionAliases`: `golden` is added to the version, `-old` taken from it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION for a declared model.
    pub async fn merge_version_aliases(self: &Arc<Self>, request: MergeVersionAliasesRequest) -> Result<Model, Status> {
        names::check_unrestricted()?;
        self.detached(|this| async move {
            let name = names::model("name", &request.name)?;
            let aliases = AliasChange::parse("version_aliases", &request.version_aliases)?;
            if request.version_aliases.is_empty() {
                return Err(missing("version_aliases"));
            }
            let writer = this.writer.lock().await;
            let state = this.state()?;
            let mut record = state.changeable_model(&name)?.clone();
            let version = state.version(&name)?.version_id.clone();
            record.realias(&version, &aliases, names::now());
            let named = Name { version: Some(version), ..name };
            this.replace(&writer, &named, record).await
        })
        .await
    }

    /// `DeleteModel`, with all its versions.
    ///
    /// # Errors
    /// NOT_FOUND; FAILED_PRECONDITION for a declared model, and for one that is deployed.
    pub async fn delete_model(
        self: &Arc<Self>,
        caller: Caller,
        request: DeleteModelRequest,
    ) -> Result<Operation, Status> {
        names::check_unrestricted()?;
        self.detached(|this| async move {
            let name = names::model("name", &request.name)?;
            if name.version.is_some() {
                let message = "name must be a model's, without @; :deleteVersion deletes a version";
                return Err(Status::bad_field("name", message));
            }
            let writer = this.writer.lock().await;
            let (state, now) = (this.state()?, names::now());
            let record = state.changeable_model(&name)?;
            check_not_deployed(&state, &name.id, None)?;
            let versions = record.versions.iter().map(|model| model.version_id.clone()).collect();
            let operation = deleted(&caller, &request.name, now);
            let change = Change {
                models: vec![(name.id.clone(), None)],
                operations: vec![kept(&operation)],
                ..Change::default()
            };
            this.commit(&writer, change, None).await?;
            this.forget(&name.id, versions);
            Ok(operation)
        })
        .await
    }

    /// `DeleteModelVersion`
    ///
    /// # Errors
    /// NOT_FOUND; FAILED_PRECONDITION for a version of a declared model, one that is deployed, the default one, and the
    /// only one.
    pub async fn delete_model_version(
        self: &Arc<Self>,
        caller: Caller,
        request: DeleteModelVersionRequest,
    ) -> Result<Operation, Status> {
        names::check_unrestricted()?;
        self.detached(|this| async move {
            let name = names::model("name", &request.name)?;
            if name.version.is_none() {
                let message = "name must name a version, as in models/MODEL@2; DELETE deletes the whole model";
                return Err(Status::bad_field("name", message));
            }
            let writer = this.writer.lock().await;
            let (state, now) = (this.state()?, names::now());
            let mut record = state.changeable_model(&name)?.clone();
            let version = state.version(&name)?.version_id.clone();
            let is_default = record.find(None).is_some_and(|default| default.version_id == version);
            let refusal = match record.versions.len() {
                1 => Some("it is the model's only version: delete the model"),
                _ if is_default => Some("it is the default version: give `default` to another one first"),
                _ => None,
            };
            if let Some(reason) = refusal {
                let message = format!("version {version} of model `{}` can't be deleted: {reason}", name.id);
                return Err(Status::new(Code::FailedPrecondition, message));
            }
            check_not_deployed(&state, &name.id, Some(&version))?;
            record.versions.retain(|model| model.version_id != version);
            let resource = request.name.split('@').next().unwrap_or_default();
            let operation = deleted(&caller, resource, now);
            let change = Change {
                models: vec![(name.id.clone(), Some(record))],
                operations: vec![kept(&operation)],
                ..Change::default()
            };
            this.commit(&writer, change, None).await?;
            this.forget(&name.id, vec![version]);
            Ok(operation)
        })
        .await
    }

    fn forget(&self, model: &str, versions: Vec<String>) {
        for version in versions.iter().filter_map(|version| version.parse().ok()) {
            self.loader.forget(&(model.to_owned(), version));
        }
    }
}

/// The id of a new model: the one that was asked for, or digits.
fn new_id(state: &State, asked: &str) -> Result<String, Status> {
    if asked.is_empty() {
        return Ok(std::iter::repeat_with(names::fresh_id)
            .find(|id| !state.models.contains_key(id))
            .unwrap_or_default());
    }
    if !names::is_model_id(asked) {
        let message = format!(
            "model_id is `{}`; it may have up to 63 lower-case letters, digits, hyphens and underscores, the first no digit \
             and no hyphen",
            shown(asked)
        );
        return Err(Status::bad_field("model_id", message));
    }
    if state.models.contains_key(asked) {
        let message = format!("model `{asked}` exists already; parent_model uploads a new version of it");
        return Err(Status { field: Some("model_id".to_owned()), ..Status::new(Code::AlreadyExists, message) });
    }
    Ok(asked.to_owned())
}

fn check_not_deployed(state: &State, model: &str, version: Option<&str>) -> Result<(), Status> {
    let mut deployments = state.deployments(model);
    match deployments.find(|(_, deployed)| version.is_none_or(|version| version == *deployed)) {
        None => Ok(()),
        Some((at, _)) => {
            let message = format!(
                "model `{model}` is deployed at {} as {}: undeploy it first",
                at.endpoint, at.deployed_model_id
            );
            Err(Status::new(Code::FailedPrecondition, message).because("MODEL_IS_DEPLOYED"))
        }
    }
}

/// A version as it is shown under a parent, with where it is deployed.
fn view(state: &State, model: &Model, parent: &str) -> Model {
    let deployments = permitted(state, names::id_of(&model.name));
    let of_it = deployments.filter(|(_, version)| *version == model.version_id).map(|(mut reference, _)| {
        reference.endpoint = names::under(parent, &reference.endpoint);
        reference
    });
    Model { name: names::under(parent, &model.name), deployed_models: of_it.collect(), ..model.clone() }
}

/// Where versions of a model are deployed, as far as the caller may know.
fn permitted<'a>(state: &'a State, model: &'a str) -> impl Iterator<Item = (DeployedModelRef, &'a str)> {
    state.deployments(model).filter(|(reference, _)| auth::may_use(names::id_of(&reference.endpoint)))
}

fn is_on_permitted(state: &State, model: &str) -> bool {
    permitted(state, model).next().is_some()
}

/// A version in a list.
struct Version<'a>(&'a Model);

impl Filtered for Version<'_> {
    const FIELDS: &'static [&'static str] = &["model", "display_name", "version_id"];

    fn values(&self, field: &str) -> Vec<&str> {
        match field {
            "model" => vec![names::id_of(&self.0.name), &self.0.name],
            "version_id" => vec![&self.0.version_id],
            _ => vec![&self.0.display_name],
        }
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.0.labels.get(key).map(String::as_str)
    }
}

impl Listed for Version<'_> {
    fn id(&self) -> (&str, &str) {
        (names::id_of(&self.0.name), &self.0.version_id)
    }

    fn display_name(&self) -> &str {
        &self.0.display_name
    }

    fn create_time(&self) -> Option<&Timestamp> {
        self.0.version_create_time.as_ref()
    }

    fn update_time(&self) -> Option<&Timestamp> {
        self.0.version_update_time.as_ref()
    }
}
