//! POSIX access control lists as Linux hands them to programs.
//!
//! Source: `include/uapi/linux/posix_acl_xattr.h`. Must not know: how file systems keep them.

/// An entry for a named user.
pub(super) const USER: u16 = 0x02;
/// An entry for a named group.
pub(super) const GROUP: u16 = 0x08;
/// The id of an entry that has none.
pub(super) const NO_ID: u32 = u32::MAX;

/// One entry of a list.
pub(super) struct Entry {
    pub(super) tag: u16,
    pub(super) permissions: u16,
    pub(super) id: u32,
}

/// The value of `system.posix_acl_access` or `system.posix_acl_default`: version 2, eight bytes an entry.
pub(super) fn to_xattr(entries: &[Entry]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for entry in entries {
        value.extend_from_slice(&entry.tag.to_le_bytes());
        value.extend_from_slice(&entry.permissions.to_le_bytes());
        value.extend_from_slice(&entry.id.to_le_bytes());
    }
    value
}
