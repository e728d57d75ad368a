//! Where the shards' sockets are, and where the ranks of a group find each other: paths that are ours alone, and gone when we are.
//!
//! A launcher that is killed leaves its private directory behind. It held a lock on it, which the kernel took away: the next
//! launcher finds the directory unlocked and removes it.

use std::{
    fs::{self, File},
    io,
    os::unix::{
        fs::{FileTypeExt, OpenOptionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::unistd::mkdtemp;

use crate::error::LaunchError;

/// Longest path of a Unix socket in bytes, its closing zero left out.
const MAX_PATH_BYTES: usize = 107;
/// Room for `-RANK-GENERATION`.
const SUFFIX_BYTES: usize = 12;

/// Names the sockets. Dropping it removes the directory if it was made here.
#[derive(Debug)]
pub(crate) struct Sockets {
    prefix: PathBuf,
    own_directory: Option<PathBuf>,
    /// Says that the directory is in use.
    _lock: Option<File>,
}

/// Stands between the prefix and the generation in the name of a meeting point.
const MEETING: &str = "-meeting-";
/// How names of private directories begin; six more letters follow.
const PRIVATE: &str = "ribbon-";
/// How names in them begin.
const SHARD: &str = "shard";

impl Sockets {
    /// Uses the operator's prefix, or makes a private directory (mode 0700).
    ///
    /// # Errors
    /// [`LaunchError::SocketPath`] when no socket can be made there, or another server uses it.
    pub(crate) fn new(prefix: Option<&str>) -> Result<Self, LaunchError> {
        let sockets = match prefix {
            Some(prefix) => Self {
                prefix: PathBuf::from(prefix),
                own_directory: None,
                _lock: None,
            },
            None => private()?,
        };
        sockets.probe().map_err(|reason| LaunchError::SocketPath {
            path: sockets.path(0, 1),
            reason,
        })?;
        Ok(sockets)
    }

    /// The socket of one shard.
    pub(crate) fn path(&self, rank: u32, generation: u64) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!("-{rank}-{generation}"));
        path.into()
    }

    /// A new empty file for the ranks of a generation, which nobody else may read (mode 0600).
    pub(crate) fn meeting_point(&self, generation: u64) -> io::Result<MeetingPoint> {
        let path = self.meeting_path(generation);
        let _ = fs::remove_file(&path);
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        options.open(&path)?;
        Ok(MeetingPoint { path })
    }

    fn meeting_path(&self, generation: u64) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!("{MEETING}{generation}"));
        path.into()
    }

    /// Removes what an earlier run may have left at the path.
    pub(crate) fn clear(path: &Path) {
        if path
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.file_type().is_socket())
        {
            let _ = fs::remove_file(path);
        }
    }

    fn probe(&self) -> Result<(), String> {
        let length = self.prefix.as_os_str().len() + SUFFIX_BYTES;
        if length > MAX_PATH_BYTES {
            return Err(format!(
                "a socket path has at most {MAX_PATH_BYTES} bytes, this one needs {length}: choose a shorter one"
            ));
        }
        let path = self.path(0, 1);
        if UnixStream::connect(&path).is_ok() {
            return Err(
                "another server uses it: choose another path or stop that server".to_owned(),
            );
        }
        Self::clear(&path);
        UnixListener::bind(&path).map_err(|error| explain(&error))?;
        Self::clear(&path);
        Ok(())
    }
}

/// A file that a generation keeps as long as it lives, since NCCL looks into it again whenever ranks talk in a new way. Dropping it
/// removes the file.
#[derive(Debug)]
pub(crate) struct MeetingPoint {
    pub(crate) path: PathBuf,
}

impl Drop for MeetingPoint {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        if let Some(directory) = &self.own_directory {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

fn private() -> Result<Sockets, LaunchError> {
    let base = Some(std::env::temp_dir())
        .filter(|base| base.as_os_str().len() < MAX_PATH_BYTES / 2)
        .unwrap_or_else(|| "/tmp".into());
    remove_abandoned(&base);
    let template = base.join(format!("{PRIVATE}XXXXXX"));
    let refused = |path: &Path, reason: String| LaunchError::SocketPath {
        path: path.to_owned(),
        reason,
    };
    for _ in 0..MOST_TRIES {
        let made = mkdtemp(&template).map_err(|error| refused(&template, error.desc().to_owned()));
        let directory = made?;
        if let Some(lock) = lock(&directory) {
            return Ok(Sockets {
                prefix: directory.join(SHARD),
                own_directory: Some(directory),
                _lock: Some(lock),
            });
        }
    }
    Err(refused(&template, "other launchers remove it".to_owned()))
}

/// Another launcher may take a new directory for an abandoned one, before it is locked.
const MOST_TRIES: u32 = 16;

/// Locks a directory that is still there.
fn lock(directory: &Path) -> Option<File> {
    let file = File::open(directory).ok()?;
    file.try_lock().ok()?;
    directory.exists().then_some(file)
}

/// Removes directories of launchers that were killed. What cannot be looked at, or is in use, stays.
fn remove_abandoned(base: &Path) {
    let Ok(entries) = base.read_dir() else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let letters = name.to_str().and_then(|name| name.strip_prefix(PRIVATE));
        if letters.is_some_and(|letters| letters.len() == 6)
            && holds_only_ours(&entry.path())
            && let Some(_lock) = lock(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Nobody else's directory of that name is touched.
fn holds_only_ours(directory: &Path) -> bool {
    let is_ours = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| {
            let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
            let name = entry.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(SHARD));
            rest.is_some_and(|rest| rest.starts_with(MEETING) || is_socket && rest.starts_with('-'))
        })
    };
    directory
        .read_dir()
        .is_ok_and(|mut entries| entries.all(is_ours))
}

fn explain(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "make its directory first",
        io::ErrorKind::PermissionDenied => "choose a directory that this user may write to",
        _ => "choose another path",
    };
    format!("{error}: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_directory_is_private_and_leaves_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let sockets = Sockets::new(None).expect("a directory");
        let directory = sockets.own_directory.clone().expect("ours");
        assert_eq!(
            directory.metadata().expect("there").permissions().mode() & 0o777,
            0o700
        );
        assert_ne!(sockets.path(0, 1), sockets.path(0, 2));
        drop(sockets);
        assert!(!directory.exists());
    }

    #[test]
    fn a_meeting_point_is_private_new_and_gone_with_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let sockets = Sockets::new(None).expect("a directory");
        let path = sockets.meeting_path(3);
        fs::write(
            &path,
            "what the ranks of a dead launcher's generation wrote",
        )
        .expect("written");
        let meeting = sockets.meeting_point(3).expect("made");
        let found = path.metadata().expect("there");
        assert_eq!(
            (found.permissions().mode() & 0o777, found.len()),
            (0o600, 0)
        );
        assert_eq!(meeting.path, path);
        let of_the_next = sockets.meeting_point(4).expect("made");
        drop(meeting);
        assert!(!path.exists());
        assert!(of_the_next.path.exists());
    }

    #[test]
    fn what_a_killed_launcher_left_is_removed_and_nothing_else() {
        let base = mkdtemp(&std::env::temp_dir().join("sweep-XXXXXX")).expect("a directory");
        let abandoned = base.join("ribbon-aaaaaa");
        let (used, foreign) = (base.join("ribbon-bbbbbb"), base.join("ribbon-cccccc"));
        for directory in [&abandoned, &used, &foreign] {
            fs::create_dir(directory).expect("made");
        }
        drop(UnixListener::bind(abandoned.join("shard-0-1")).expect("a socket left behind"));
        fs::write(abandoned.join("shard-meeting-1"), "").expect("a meeting point left behind");
        fs::write(foreign.join("notes"), "mine").expect("written");
        let lock = lock(&used).expect("locked");
        remove_abandoned(&base);
        assert_eq!(
            [&abandoned, &used, &foreign].map(|directory| directory.exists()),
            [false, true, true]
        );
        drop(lock);
        fs::remove_dir_all(base).expect("removed");
    }

    #[test]
    fn a_path_without_directory_or_too_long_or_through_a_file_is_refused() {
        let too_long = format!("/tmp/{}", "x".repeat(100));
        for (prefix, expected) in [
            ("/nowhere/at/all", "make its directory"),
            (too_long.as_str(), "at most 107"),
            ("/etc/hosts/x", "choose another"),
        ] {
            let message = Sockets::new(Some(prefix)).expect_err(prefix).to_string();
            assert!(
                message.contains(expected) && message.contains("--shard-uds-path"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_path_in_use_is_refused_and_a_stale_one_is_taken_over() {
        let directory = Sockets::new(None).expect("a directory");
        let prefix = directory.path(7, 7);
        let mine = Sockets {
            prefix: prefix.clone(),
            own_directory: None,
            _lock: None,
        }
        .path(0, 1);
        let listener = UnixListener::bind(&mine).expect("bound");
        let prefix = prefix.to_str().expect("text");
        assert!(
            Sockets::new(Some(prefix))
                .expect_err("in use")
                .to_string()
                .contains("another server")
        );
        drop(listener);
        assert!(mine.exists());
        Sockets::new(Some(prefix)).expect("stale");
    }
}
