//! Where something lies, in words: `label:BACKUP/repo`, `uuid:1BA7-0003/repo`, `/dev/sdb1/repo`.
//!
//! Must not know: mounting.

use std::path::{Component, Path, PathBuf};

use super::Place;

/// A directory or file on a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    by: By,
    /// Below the place's root; without `..`.
    pub(crate) path: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum By {
    Label(String),
    Uuid(String),
    /// `/dev/sdb1/repo`: which part of it is the device is seen when it is there.
    Device(PathBuf),
}

impl Spot {
    /// # Errors
    /// What is accepted.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no place: give label:NAME/path, uuid:UUID/path or /dev/NAME/path");
        if text.starts_with("/dev/") {
            return Ok(Self { by: By::Device(text.into()), path: PathBuf::new() });
        }
        for scheme in ["nfs:", "smb:", "cifs:", "s3:", "sftp:", "http:", "https:"] {
            if text.starts_with(scheme) {
                return Err(format!(
                    "{text:?}: this version knows no places in the network; give label:NAME/path, uuid:UUID/path or /dev/NAME/path"
                ));
            }
        }
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            return Err(wrong());
        }
        let by = match kind {
            "label" => By::Label(name.to_owned()),
            "uuid" => By::Uuid(name.to_owned()),
            _ => return Err(wrong()),
        };
        let path = PathBuf::from(path.trim_matches('/'));
        if path.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(format!("{text:?} is no place: the path must not go up"));
        }
        Ok(Self { by, path })
    }

    /// The one place that is meant, and the path on it.
    ///
    /// # Errors
    /// When there is none, or several.
    pub(crate) fn find(&self, places: &[Place]) -> Result<(Place, PathBuf), String> {
        let is_meant = |place: &&Place| match &self.by {
            By::Label(label) => place.label.as_ref() == Some(label),
            By::Uuid(uuid) => place.uuid.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(uuid)),
            By::Device(path) => path.starts_with(&place.device),
        };
        let found: Vec<&Place> = places.iter().filter(is_meant).collect();
        match *found {
            [place] => Ok((place.clone(), self.path_on(place))),
            [] => {
                let known: Vec<String> = places.iter().map(Place::shown).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(format!("no file system is {self}; there are: {known}"))
            }
            _ => {
                let found: Vec<String> = found.iter().map(|place| place.shown()).collect();
                Err(format!("{} are both {self}; give a uuid", found.join(" and ")))
            }
        }
    }

    fn path_on(&self, place: &Place) -> PathBuf {
        match &self.by {
            By::Device(path) => {
                let rest = path.strip_prefix(&place.device).unwrap_or(Path::new(""));
                rest.components().filter(|part| matches!(part, Component::Normal(_))).collect()
            }
            _ => self.path.clone(),
        }
    }
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.by {
            By::Label(label) => write!(f, "labelled {label}"),
            By::Uuid(uuid) => write!(f, "{uuid}"),
            By::Device(device) => write!(f, "on {}", device.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(device: &str, label: Option<&str>, uuid: &str) -> Place {
        Place {
            device: device.into(),
            label: label.map(str::to_owned),
            uuid: Some(uuid.to_owned()),
            filesystem: "ext4".into(),
            size: 1,
            model: None,
            serial: None,
            mounted: None,
        }
    }

    #[test]
    fn the_one_that_is_meant_is_found() {
        let places = [
            place("/dev/sda1", Some("A"), "1-2"),
            place("/dev/sdb1", Some("B"), "ABCD-1"),
            place("/dev/sdc", None, "3"),
        ];
        for (text, device, path) in [
            ("label:A/x/y", "/dev/sda1", "x/y"),
            ("label:B", "/dev/sdb1", ""),
            ("uuid:abcd-1/x/", "/dev/sdb1", "x"),
            ("/dev/sdc/repo", "/dev/sdc", "repo"),
            ("/dev/sda1", "/dev/sda1", ""),
        ] {
            let (found, at) = Spot::parse(text).unwrap().find(&places).unwrap();
            assert_eq!((found.device, at), (device.into(), path.into()), "{text}");
        }
        let error = Spot::parse("label:C/x").unwrap().find(&places).unwrap_err();
        assert!(error.contains("labelled C") && error.contains("B (/dev/sdb1, ext4)"), "{error}");
        let twice = [places[0].clone(), place("/dev/sdd1", Some("A"), "9")];
        assert!(Spot::parse("label:A").unwrap().find(&twice).unwrap_err().contains("give a uuid"));
    }

    #[test]
    fn what_is_no_place_is_said() {
        for text in ["", "x", "label:", "label:/x", "ftp:x/y", "label:A/../etc"] {
            assert!(Spot::parse(text).unwrap_err().contains("no place"), "{text}");
        }
        assert!(Spot::parse("nfs:server/x").unwrap_err().contains("network"));
    }
}
