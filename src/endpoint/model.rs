//! Models by name, as the protocols have it that know models and versions but no endpoints.
//!
//! A name is, in this order: an endpoint's id (its traffic split decides, where no version is asked for), a deployed
//! model's id, or the name of a model's folder (its highest version answers). Versions are those of the endpoint's
//! models, then those of the model of that name wherever it is deployed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::{Aliases, Catalog, DeployedModel, Endpoint, LookupError};

/// Which version of a model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version<'a> {
    /// Whichever the name itself stands for.
    Any,
    /// The one of this number, or with this alias.
    Number(&'a str),
    /// The one with this alias. Where no version has it, `latest` is the highest, and `stable` the one with the most
    /// traffic.
    Label(&'a str),
}

impl fmt::Display for Version<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("version"),
            Self::Number(number) => write!(formatter, "version {}", clipped(number)),
            Self::Label(label) => write!(formatter, "version with the label `{}`", clipped(label)),
        }
    }
}

/// What a name stands for.
pub struct NamedModel {
    /// The name.
    pub name: String,
    /// The endpoint of that id, if it is one.
    endpoint: Option<Arc<Endpoint>>,
    /// At least one, highest version first.
    versions: Vec<(Arc<Endpoint>, Arc<DeployedModel>)>,
    aliases: Arc<Aliases>,
}

impl Catalog {
    /// All names that [`Catalog::model`] finds, but for the ids of deployed models.
    pub fn model_names(&self) -> BTreeSet<&str> {
        let endpoints = self.endpoints().map(|endpoint| &*endpoint.id);
        let models = self.endpoints().flat_map(|endpoint| endpoint.deployed_models());
        endpoints.chain(models.map(|deployed| &*deployed.model.name)).collect()
    }

    /// The model of a name.
    ///
    /// # Errors
    /// [`LookupError::UnknownModel`], or [`LookupError::NoTraffic`] for an endpoint without models.
    pub fn model(&self, name: &str) -> Result<NamedModel, LookupError> {
        let all = || self.endpoints().flat_map(pairs);
        let endpoint = self.endpoint(name).ok().cloned();
        let mut versions: Vec<_> = match &endpoint {
            Some(endpoint) => pairs(endpoint).collect(),
            None => all().filter(|(_, deployed)| deployed.fields.deployed_model_id == name).take(1).collect(),
        };
        // An endpoint often has its model's name; then the versions under other endpoints are its model's too.
        if versions.is_empty() || endpoint.is_some() {
            versions.extend(all().filter(|(_, deployed)| deployed.model.name == name));
        }
        match (versions.is_empty(), endpoint) {
            (true, Some(endpoint)) => Err(LookupError::NoTraffic(endpoint.id.clone())),
            (true, None) => Err(LookupError::UnknownModel {
                name: clipped(name),
                known: self.model_names().into_iter().map(str::to_owned).collect(),
            }),
            (false, endpoint) => {
                // The order of the declaration stays where versions are equal.
                versions.sort_by_key(|(_, deployed)| std::cmp::Reverse(deployed.version_number()));
                Ok(NamedModel { name: name.to_owned(), endpoint, versions, aliases: self.aliases().clone() })
            }
        }
    }
}

impl NamedModel {
    /// Its versions, the highest first; each once.
    pub fn versions(&self) -> impl Iterator<Item = &Arc<DeployedModel>> {
        let mut seen = BTreeSet::new();
        self.versions.iter().map(|(_, deployed)| deployed).filter(move |deployed| seen.insert(deployed.version()))
    }

    /// The deployed model that answers a request for a version, and its endpoint. Without a version, this is a turn of
    /// the endpoint's traffic split, or the one of the session.
    ///
    /// # Errors
    /// [`LookupError::UnknownVersion`], [`LookupError::NoTraffic`].
    pub fn choose(
        &self,
        version: Version<'_>,
        session: Option<&[u8]>,
    ) -> Result<(Arc<Endpoint>, Arc<DeployedModel>), LookupError> {
        match (version, &self.endpoint) {
            (Version::Any, Some(endpoint)) => {
                let deployed = endpoint.choose(session).ok_or_else(|| LookupError::NoTraffic(endpoint.id.clone()))?;
                Ok((endpoint.clone(), deployed.clone()))
            }
            _ => self.find(version).cloned(),
        }
    }

    /// The deployed model to describe for a version, which is no turn of the traffic split.
    ///
    /// # Errors
    /// [`LookupError::UnknownVersion`].
    pub fn version(&self, version: Version<'_>) -> Result<&Arc<DeployedModel>, LookupError> {
        self.find(version).map(|(_, deployed)| deployed)
    }

    fn find(&self, version: Version<'_>) -> Result<&(Arc<Endpoint>, Arc<DeployedModel>), LookupError> {
        let has_alias = |deployed: &DeployedModel, alias: &str| {
            let model = deployed.fields.model.rsplit('/').next().unwrap_or_default();
            self.aliases.version(model, alias) == Some(deployed.version())
        };
        let with_alias = |alias: &str| self.versions.iter().find(|(_, deployed)| has_alias(deployed, alias));
        let of_number = |number: &str| self.versions.iter().find(|(_, deployed)| deployed.version() == number);
        let found = match version {
            Version::Any => self.versions.first(),
            Version::Label(label) => with_alias(label).or_else(|| match label {
                "latest" => self.versions.first(),
                "stable" => self.versions.iter().rev().max_by_key(|(_, deployed)| deployed.traffic),
                _ => None,
            }),
            Version::Number(number) => of_number(number).or_else(|| with_alias(number)),
        };
        found.ok_or_else(|| LookupError::UnknownVersion {
            model: clipped(&self.name),
            version: version.to_string(),
            known: self.versions().map(|deployed| format!("version {}", deployed.version())).collect(),
        })
    }
}

impl DeployedModel {
    /// The number of its version, as text.
    pub fn version(&self) -> &str {
        &self.fields.model_version_id
    }

    fn version_number(&self) -> u64 {
        self.version().parse().unwrap_or(0)
    }
}

fn pairs(endpoint: &Arc<Endpoint>) -> impl Iterator<Item = (Arc<Endpoint>, Arc<DeployedModel>)> {
    endpoint.deployed_models().iter().map(|deployed| (endpoint.clone(), deployed.clone()))
}

fn clipped(text: &str) -> String {
    text.chars().take(64).collect()
}
