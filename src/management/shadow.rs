//! Shadows over the API: a deployed model with the system label `tessera-shadow` answers nobody and gets copies of so many
//! percent of the endpoint's requests.

use crate::protocol::generated::google::cloud::aiplatform::v1::{DeployedModel, Endpoint};
use crate::protocol::status::Status;

use super::state::shown;

/// The key in `systemLabels`; its value is a percent, 1 to 100, or `true` for all requests.
const LABEL: &str = "tessera-shadow";

/// The percent of the requests that are copied to a deployed model; `None` for one that isn't a shadow.
pub fn percent(deployed: &DeployedModel) -> Option<u8> {
    match deployed.system_labels.get(LABEL)?.as_str() {
        "true" => Some(100),
        text => text.parse().ok().filter(|percent| (1..=100).contains(percent)),
    }
}

/// The label of a shadow of so many percent.
pub fn label(percent: u8) -> (String, String) {
    (LABEL.to_owned(), percent.to_string())
}

/// Refuses a label that can't be read.
pub fn check_label(deployed: &DeployedModel) -> Result<(), Status> {
    match deployed.system_labels.get(LABEL) {
        Some(text) if text != "false" && percent(deployed).is_none() => {
            let field = format!("deployed_model.system_labels[{LABEL}]");
            let message = format!("{field} is `{}`; it must be true, or a percent from 1 to 100", shown(text));
            Err(Status::bad_field(field, message))
        }
        _ => Ok(()),
    }
}

/// Refuses a split that sends requests to a shadow.
pub fn check_split(endpoint: &Endpoint) -> Result<(), Status> {
    let has_traffic =
        |deployed: &&DeployedModel| endpoint.traffic_split.get(&deployed.id).is_some_and(|share| *share > 0);
    match endpoint.deployed_models.iter().filter(has_traffic).find(|deployed| percent(deployed).is_some()) {
        Some(shadow) => {
            let message =
                format!("traffic_split sends requests to `{}`, which is a shadow and answers nobody", shadow.id);
            Err(Status::bad_field("traffic_split", message))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployed(label: Option<&str>) -> DeployedModel {
        let labels = label.map(|label| (LABEL.to_owned(), label.to_owned())).into_iter().collect();
        DeployedModel { id: "7".to_owned(), system_labels: labels, ..DeployedModel::default() }
    }

    #[test]
    fn the_label_is_a_percent() {
        for (label, expected) in
            [(None, None), (Some("true"), Some(100)), (Some("10"), Some(10)), (Some("false"), None)]
        {
            assert_eq!(percent(&deployed(label)), expected);
            assert!(check_label(&deployed(label)).is_ok());
        }
        for wrong in ["0", "101", "yes", ""] {
            assert!(percent(&deployed(Some(wrong))).is_none() && check_label(&deployed(Some(wrong))).is_err());
        }
    }

    #[test]
    fn a_shadow_has_no_traffic() {
        let endpoint = |label, share| Endpoint {
            deployed_models: vec![deployed(label)],
            traffic_split: [("7".to_owned(), share)].into(),
            ..Endpoint::default()
        };
        assert!(check_split(&endpoint(Some("10"), 100)).is_err());
        assert!(check_split(&endpoint(Some("10"), 0)).is_ok() && check_split(&endpoint(None, 100)).is_ok());
    }
}
