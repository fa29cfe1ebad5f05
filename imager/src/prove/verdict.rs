//! What is seen of a machine that starts, judged: does the system live, has it failed, or is it too early to say?
//!
//! Pure: no machine, no clock. Must not know: how what is seen was got.

#![forbid(unsafe_code)]

use std::time::Duration;

/// For so long nothing may change before a machine that asks for something is taken to wait for it.
const WAITS: Duration = Duration::from_secs(12);
/// A picture that stays for so long is a screen that somebody may log in on.
const PICTURE_STAYS: Duration = Duration::from_secs(30);
/// Firmware and boot loaders read less than this; systems with a graphical login read more.
const SYSTEM_BYTES: u64 = 150 << 20;
/// Texts on a console, and firmware's logos, have fewer colours.
const PICTURE_COLOURS: usize = 200;
/// A machine that starts so often gets nowhere.
const RESETS_MAX: u32 = 4;

/// What is seen of a machine now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<'a> {
    /// The serial console's text so far, without control sequences.
    pub serial: &'a str,
    /// The text on the screen, when it is in text mode.
    pub screen: Option<&'a str>,
    /// What the screen shows in graphics mode.
    pub picture: Option<Picture>,
    /// How long nothing has changed: serial console, screen, reads from the disks.
    pub quiet: Duration,
    /// How long the picture has been the same, but for a clock or a cursor.
    pub picture_stays: Duration,
    /// Bytes read from the disks since the start.
    pub read: u64,
    /// How often the machine began anew.
    pub resets: u32,
    /// Whether it has ended.
    pub ended: bool,
    /// Whether what runs the machine's processor has given up.
    pub processor_failed: bool,
}

/// What a screen in graphics mode shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Different colours, counted up to a thousand or so.
    pub colours: usize,
    /// Whether most of it is the blue of Windows' stop screen.
    pub is_stop_screen: bool,
    /// Whether it is a console's text that ends in a login prompt.
    pub is_login_prompt: bool,
}

/// The end of a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The system lives, by this sign.
    Lives(String),
    /// It does not, for this reason.
    Fails(String),
}

/// What ends a start wherever it is said: the text, and what it means.
const FATAL: &[(&str, &str)] = &[
    ("Unable to mount root fs", "the kernel cannot mount the root file system"),
    ("No bootable device", "the firmware finds nothing to start from"),
    (
        "No bootable option or device was found",
        "the firmware finds nothing to start from: no EFI system partition has a boot loader that starts, be it \\EFI\\BOOT\\BOOTX64.EFI or another that is known",
    ),
    ("BOOTMGR is missing", "Windows' boot manager is missing"),
    ("BOOTMGR image is corrupt", "Windows' boot manager is damaged"),
    ("NTLDR is missing", "Windows' boot loader is missing"),
    ("Windows failed to start", "Windows' boot manager cannot start Windows"),
    ("Missing operating system", "the boot record finds no system"),
    ("Operating System not found", "the boot record finds no system"),
    ("Error loading operating system", "the boot record cannot read the system's boot sector"),
    ("Invalid partition table", "the boot record finds no good partition table"),
    ("A disk read error occurred", "the boot sector cannot read the disk"),
    ("Kernel panic", "the kernel stopped"),
    ("end Kernel panic", "the kernel stopped"),
];

/// What a machine asks when nobody is there to answer: how the line begins, and what it means.
const PROMPTS: &[(&str, &str)] = &[
    ("grub rescue>", "GRUB cannot find its files and is at its rescue prompt"),
    ("grub>", "GRUB finds no menu and is at its prompt"),
    ("(initramfs)", "the initramfs could not start the system and is at its shell"),
    ("dracut:/#", "the initramfs could not start the system and is at its shell"),
    ("Shell>", "the firmware finds nothing to start from and is at the UEFI shell"),
    ("Press any key to continue", "the boot loader reports an error and waits for a key"),
    ("Give root password for maintenance", "the system came up in emergency mode"),
    ("Press Enter for maintenance", "the system came up in emergency mode"),
    ("You are in emergency mode", "the system came up in emergency mode"),
    ("Please enter passphrase", "it waits for the passphrase of an encrypted volume"),
    ("Please unlock disk", "it waits for the passphrase of an encrypted volume"),
    ("Enter passphrase for", "it waits for the passphrase of an encrypted volume"),
];

/// What GRUB writes below its menu.
const MENU: &str = "which entry is highlighted";
/// And when something was chosen, or the time to choose is up.
const BOOTING: &str = "Booting `";

/// Lines with one of these say why.
const REASONS: &[&str] = &[
    "error:",
    "not syncing",
    "ALERT!",
    "Gave up waiting",
    "No init found",
    "can't execute",
    "can't open /root",
    "failed",
    "not found",
];

/// Judges; `None` when it is too early.
#[must_use]
pub fn judge(seen: &Seen<'_>) -> Option<Verdict> {
    let screen = seen.screen.unwrap_or_default();
    if has_login_prompt(seen.serial) {
        return Some(Verdict::Lives("login prompt on the serial console".into()));
    }
    if has_login_prompt(screen) || seen.picture.is_some_and(|picture| picture.is_login_prompt) {
        return Some(Verdict::Lives("login prompt on the screen".into()));
    }
    for text in [seen.serial, screen] {
        if let Some((needle, meaning)) = FATAL.iter().find(|(needle, _)| text.contains(needle)) {
            return Some(Verdict::Fails(with_line(meaning, text, needle)));
        }
    }
    if seen.processor_failed {
        return Some(Verdict::Fails(
            "QEMU cannot run the machine's processor any further, which says nothing of the image".into(),
        ));
    }
    if seen.ended {
        return Some(Verdict::Fails("the machine switched itself off".into()));
    }
    if seen.resets >= RESETS_MAX {
        return Some(Verdict::Fails(format!("the machine began anew {} times", seen.resets)));
    }
    if let Some(picture) = seen.picture
        && seen.picture_stays >= PICTURE_STAYS
    {
        if picture.is_stop_screen {
            return Some(Verdict::Fails("Windows stopped: the screen is blue".into()));
        }
        if picture.colours >= PICTURE_COLOURS && seen.read >= SYSTEM_BYTES {
            return Some(Verdict::Lives("a graphical screen that stays, as of a display manager".into()));
        }
    }
    if seen.quiet >= WAITS {
        let serial = seen.serial.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let lines = std::iter::once((serial, seen.serial)).chain(screen.lines().map(|line| (line.trim(), screen)));
        for (line, text) in lines {
            if let Some((needle, meaning)) = PROMPTS.iter().find(|(needle, _)| line.starts_with(needle)) {
                return Some(Verdict::Fails(with_reason(meaning, text, needle)));
            }
        }
        let waiting = [seen.serial, screen].into_iter().find(|text| waits_at_menu(text));
        if let Some(text) = waiting {
            return Some(Verdict::Fails(with_reason("GRUB waits at its menu", text, MENU)));
        }
    }
    None
}

/// What to say when the time is up.
#[must_use]
pub fn timed_out(seen: &Seen<'_>) -> String {
    let last = |text: &str| text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(shortened);
    let shown = last(seen.serial).or_else(|| seen.screen.and_then(last));
    match (shown, seen.picture) {
        (Some(line), _) => format!("no sign of life in time; the last that it said: {line}"),
        (None, Some(_)) => "no sign of life in time; its screen is in graphics mode, look at the picture".into(),
        (None, None) => "no sign of life in time, and it said nothing".into(),
    }
}

/// A line that a getty writes: a host name, `login:`, and nothing, or what the kernel says later in the same line.
fn has_login_prompt(text: &str) -> bool {
    text.lines().any(|line| {
        let Some((name, rest)) = line.trim().split_once(" login:") else { return false };
        let is_name =
            !name.is_empty() && name != "Last" && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        let rest = rest.trim_start();
        is_name && (rest.is_empty() || rest.starts_with('['))
    })
}

/// Whether GRUB shows its menu, and has not begun to start anything since. One that counts down is not quiet.
fn waits_at_menu(text: &str) -> bool {
    text.rfind(MENU).is_some_and(|at| text.rfind(BOOTING).is_none_or(|booting| booting < at))
}

/// With the line that the text is in.
fn with_line(meaning: &str, text: &str, needle: &str) -> String {
    let line = text.lines().find(|line| line.contains(needle)).unwrap_or(needle);
    format!("{meaning}: {}", shortened(line.trim()))
}

/// With the last line that says why, before the prompt.
fn with_reason(meaning: &str, text: &str, prompt: &str) -> String {
    let before = text.rfind(prompt).and_then(|at| text.get(..at)).unwrap_or(text);
    let mut lines = before.lines().rev().map(str::trim).filter(|line| !line.is_empty()).take(200);
    match lines.find(|line| REASONS.iter().any(|reason| line.contains(reason))) {
        Some(line) => format!("{meaning}: {}", shortened(line)),
        None => meaning.to_owned(),
    }
}

/// Enough of a line.
fn shortened(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(text: &str) -> Option<Verdict> {
        judge(&Seen { serial: text, quiet: WAITS, ..Seen::default() })
    }

    fn fails(text: &str) -> String {
        match serial(text) {
            Some(Verdict::Fails(reason)) => reason,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_login_prompt_is_life() {
        for text in [
            "Debian GNU/Linux 12 web ttyS0\n\nweb login: ",
            "web-1.example login:",
            "web login: [   12.5] random: crng init done\n",
        ] {
            assert_eq!(serial(text), Some(Verdict::Lives("login prompt on the serial console".into())), "{text}");
        }
        for text in ["Last login: Mon", "GRUB login", "the user login: was refused", " login:", "cannot login: bad"] {
            assert_eq!(serial(text), None, "{text}");
        }
        let seen = Seen { screen: Some("Debian GNU/Linux 12 web tty1\n\nweb login: _\n"), ..Seen::default() };
        assert_eq!(judge(&seen), None, "something was typed");
        let seen = Seen { screen: Some("web login:   \n"), ..seen };
        assert_eq!(judge(&seen), Some(Verdict::Lives("login prompt on the screen".into())));
    }

    #[test]
    fn what_cannot_go_on_is_said_in_words() {
        for (text, expected) in [
            (
                "Booting from Hard Disk...\nBoot failed: not a bootable disk\n\nNo bootable device.\n",
                "finds nothing to start from: No bootable device.",
            ),
            ("BOOTMGR is missing\nPress Ctrl+Alt+Del to restart", "boot manager is missing"),
            (
                "VFS: Cannot open root device\nKernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n",
                "cannot mount the root file system: Kernel panic",
            ),
            (
                "Kernel panic - not syncing: Attempted to kill init!\n",
                "the kernel stopped: Kernel panic - not syncing: Attempted",
            ),
            (
                "GRUB loading.\nerror: file `/boot/grub/i386-pc/normal.mod' not found.\nEntering rescue mode...\ngrub rescue> ",
                "normal.mod' not found",
            ),
            (
                "No init found. Try passing init= bootarg.\n\nBusyBox v1.35\n\n(initramfs) ",
                "initramfs could not start the system and is at its shell: No init found",
            ),
            (
                "error: invalid magic number.\nerror: you need to load the kernel first.\n\nPress any key to continue...",
                "waits for a key: error: you need to load",
            ),
            ("BdsDxe: No bootable option or device was found.\n", "finds nothing to start from"),
            ("Give root password for maintenance\n(or press Control-D to continue): ", ""),
        ] {
            if expected.is_empty() {
                // The prompt is not the last line on the serial console, only on a screen.
                let seen = Seen { screen: Some(text), quiet: WAITS, ..Seen::default() };
                assert!(matches!(judge(&seen), Some(Verdict::Fails(reason)) if reason.contains("emergency mode")));
            } else {
                let reason = fails(text);
                assert!(reason.contains(expected), "{reason}");
            }
        }
    }

    #[test]
    fn a_menu_that_waits_after_an_error_is_the_end() {
        let error = "  Booting `Debian'\nerror: you need to load the kernel first.\n\nPress any key to continue...\n";
        let menu = "GNU GRUB  version 2.06\n|\n|\nUse the ^ and v keys to select which entry is highlighted.\n";
        let reason = fails(&format!("{error}{menu}*Debian"));
        assert!(reason.contains("waits at its menu: error: you need to load the kernel first"), "{reason}");
        assert_eq!(serial(&format!("{menu}  Booting `Debian'\nLoading Linux ...\n")), None, "it goes on, in silence");
    }

    #[test]
    fn a_prompt_that_goes_by_is_none() {
        let seen = Seen { serial: "grub> ", quiet: Duration::from_secs(1), ..Seen::default() };
        assert_eq!(judge(&seen), None);
        assert_eq!(serial("(initramfs) exit\nweb is starting"), None);
    }

    #[test]
    fn a_picture_has_to_stay_and_to_come_from_the_disk() {
        let picture = Picture { colours: 900, is_stop_screen: false, is_login_prompt: false };
        let seen = Seen { picture: Some(picture), picture_stays: PICTURE_STAYS, read: SYSTEM_BYTES, ..Seen::default() };
        assert!(matches!(judge(&seen), Some(Verdict::Lives(_))));
        assert_eq!(judge(&Seen { picture_stays: Duration::ZERO, ..seen }), None);
        assert_eq!(judge(&Seen { read: 1 << 20, ..seen }), None, "firmware");
        assert_eq!(judge(&Seen { picture: Some(Picture { colours: 16, ..picture }), ..seen }), None, "a console");
        let blue = Seen { picture: Some(Picture { is_stop_screen: true, ..picture }), ..seen };
        assert!(matches!(judge(&blue), Some(Verdict::Fails(_))));
        let prompt = Seen { picture: Some(Picture { is_login_prompt: true, ..picture }), ..Seen::default() };
        assert!(matches!(judge(&prompt), Some(Verdict::Lives(_))));
    }

    #[test]
    fn a_machine_that_gives_up_has_failed() {
        assert!(matches!(judge(&Seen { ended: true, ..Seen::default() }), Some(Verdict::Fails(_))));
        assert!(matches!(judge(&Seen { processor_failed: true, ..Seen::default() }), Some(Verdict::Fails(_))));
        assert!(matches!(judge(&Seen { resets: RESETS_MAX, ..Seen::default() }), Some(Verdict::Fails(_))));
        assert_eq!(judge(&Seen { resets: 1, ..Seen::default() }), None);
        assert!(timed_out(&Seen { serial: "one\ntwo\n\n", ..Seen::default() }).ends_with("two"));
    }
}
