//! An OVF descriptor: which files are the disks of a virtual machine, in which order, and what the machine is called.
//!
//! Only tags and their attributes are looked at: as much of XML as these need. Must not know: files, archives.
//!
//! Source: DMTF DSP0243, sections 7.1 (`References`), 9.1 (`DiskSection`), 7.2 (`VirtualSystem`).

use std::collections::HashMap;

use super::error::DiskError;

/// More than any hypervisor gives a machine.
const DISKS_MAX: usize = 256;

/// What a descriptor says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ovf {
    /// The machine's name.
    pub name: Option<String>,
    /// The names of the disks' files, in order.
    pub disks: Vec<String>,
}

/// A tag: its name without prefix, and its attributes' names without prefixes and values.
type Tag<'a> = (&'a str, Vec<(&'a str, String)>);

fn attribute(tag: &Tag<'_>, name: &str) -> Option<String> {
    tag.1.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())
}

impl Ovf {
    /// Reads the text.
    ///
    /// # Errors
    /// [`DiskError`] when it names no disk, or none that is read here.
    pub(super) fn parse(text: &str) -> Result<Self, DiskError> {
        let tags = tags(text);
        let mut this = Self::default();
        // What of the same name comes first counts.
        let mut files: HashMap<String, &Tag<'_>> = HashMap::new();
        for tag in tags.iter().filter(|tag| tag.0 == "File") {
            if let Some(id) = attribute(tag, "id") {
                files.entry(id).or_insert(tag);
            }
        }
        for tag in &tags {
            match tag.0 {
                "VirtualSystemCollection" => {
                    return Err(DiskError::unsupported("it has several virtual machines; export them one by one"));
                }
                "VirtualSystem" => this.name = attribute(tag, "id"),
                // A disk without a file is empty.
                "Disk" => {
                    let Some(file) = attribute(tag, "fileRef") else { continue };
                    let found = files.get(&file).and_then(|tag| Some((*tag, attribute(tag, "href")?)));
                    let Some((tag, name)) = found else {
                        return Err(DiskError::damaged(
                            0,
                            format!("its disk is in a file `{file}` that it does not name"),
                        ));
                    };
                    let is_whole = attribute(tag, "chunkSize").is_none_or(|size| size == "0");
                    if !is_whole
                        || attribute(tag, "compression").is_some_and(|how| !how.is_empty() && how != "identity")
                    {
                        return Err(DiskError::unsupported(format!(
                            "its disk {name} is compressed as a file, or in pieces; export it without"
                        )));
                    }
                    if this.disks.len() == DISKS_MAX {
                        return Err(DiskError::unsupported(format!("it has more than {DISKS_MAX} disks")));
                    }
                    this.disks.push(name);
                }
                _ => {}
            }
        }
        if this.disks.is_empty() { Err(DiskError::unsupported("its descriptor names no disk")) } else { Ok(this) }
    }
}

fn tags(text: &str) -> Vec<Tag<'_>> {
    let mut tags = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('<') {
        if let Some(comment) = after.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let Some((tag, after)) = after.split_once('>') else { break };
        rest = after;
        let name_end = tag.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(tag.len());
        let (name, attributes) = tag.split_at(name_end);
        if !name.is_empty() {
            tags.push((without_prefix(name), attributes_of(attributes)));
        }
    }
    tags
}

fn without_prefix(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

fn attributes_of(mut rest: &str) -> Vec<(&str, String)> {
    let mut attributes = Vec::new();
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let Some(mark) = after.chars().next().filter(|mark| matches!(mark, '"' | '\'')) else { break };
        let Some((value, after)) = after.split_at(1).1.split_once(mark) else { break };
        // The ampersand last: what it gives is no entity.
        let value = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
            .iter()
            .fold(value.to_owned(), |value, (entity, letter)| value.replace(entity, letter));
        attributes.push((without_prefix(key.trim()), value));
        rest = after;
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_come_in_the_order_of_the_disks() {
        let text = r#"<?xml version="1.0"?><Envelope xmlns:ovf="x"><!-- <Disk ovf:fileRef="no"/> --><References>
            <File ovf:href="b.vmdk" ovf:id="file2" ovf:size="3"/><File ovf:id='file1' ovf:href='a &amp; b.vmdk'/></References>
            <DiskSection><Info>x</Info><Disk ovf:diskId="d1" ovf:fileRef="file1"/><Disk ovf:diskId="empty"/>
            <Disk ovf:diskId="d2" ovf:fileRef="file2" /></DiskSection><VirtualSystem ovf:id="vm"></VirtualSystem></Envelope>"#;
        let found = Ovf::parse(text).unwrap();
        assert_eq!(found, Ovf { name: Some("vm".into()), disks: vec!["a & b.vmdk".into(), "b.vmdk".into()] });
        assert!(Ovf::parse(&text.replace("file2\" ovf:size", "other\" ovf:size")).is_err());
        assert!(Ovf::parse("<Envelope/>").is_err());
        let many = format!(r#"<File href="a" id="f"/>{}"#, r#"<Disk fileRef="f"/>"#.repeat(DISKS_MAX + 1));
        assert!(Ovf::parse(&many).unwrap_err().to_string().contains("more than 256 disks"));
        for end in 0..text.len() {
            let _ = Ovf::parse(text.get(..end).unwrap_or_default());
        }
    }
}
