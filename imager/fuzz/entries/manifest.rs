//! What must be true of every manifest, and of the other sealed objects that are JSON.

use imager::repo::config::from_json;
use imager::repo::manifest::Manifest;
use imager::repo::session::{Doomed, SessionRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads `data` as the payload of each of them.
pub(crate) fn run(data: &[u8]) {
    comes_back::<SessionRecord>(data);
    comes_back::<Doomed>(data);
    let Ok(manifest) = Manifest::from_json("images/0", data) else { return };
    let json = serde_json::to_vec(&manifest).unwrap();
    let again = Manifest::from_json("images/0", &json).unwrap();
    assert_eq!(serde_json::to_vec(&again).unwrap(), json, "what was read is written as it was");
    let mut total = 0u64;
    for (number, disk) in manifest.disks.iter().enumerate() {
        total = total.checked_add(disk.size).unwrap();
        let mut at = 0;
        for region in &disk.regions {
            assert!(region.start >= at, "regions overlap");
            at = region.start.checked_add(region.len).unwrap();
            let _ = manifest.place(number, region.start);
        }
        assert!(at <= disk.size);
    }
    assert!(i64::try_from(total).is_ok());
    let _ = (manifest.machine_words(), manifest.place(usize::MAX, u64::MAX));
}

fn comes_back<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let Ok(value) = from_json::<T>("object", data) else { return };
    let json = serde_json::to_vec(&value).unwrap();
    let again: T = from_json("object", &json).unwrap();
    assert_eq!(serde_json::to_vec(&again).unwrap(), json);
}
