//! All shards of one generation, which start together and are of no use without each other. Knows no policy and no router.

use std::time::Instant;

use tokio::{sync::mpsc::Sender, task::JoinSet};

use crate::{
    error::LaunchError,
    process::Ending,
    shard::{self, Origin, Shard, ShardRecipe},
    sockets::MeetingPoint,
    supervisor::Event,
};

/// Exit code of a shard that refuses what it was asked for.
const REFUSES: i32 = 2;

/// A generation of shards.
#[derive(Debug)]
pub(crate) struct Shards {
    /// When they were started, or when they were last found to take too long.
    pub(crate) started: Instant,
    members: Vec<Member>,
    /// How they ended, the first one first.
    endings: Vec<(usize, Ending)>,
    /// Where they find each other, as long as any of them may still look for another.
    _meeting_point: Option<MeetingPoint>,
}

#[derive(Debug)]
struct Member {
    shard: Shard,
    is_listening: bool,
    is_gone: bool,
}

impl Shards {
    /// Starts all processes; their events go to `events`.
    ///
    /// # Errors
    /// [`LaunchError::Spawn`].
    pub(crate) fn start(
        recipe: &ShardRecipe,
        generation: u64,
        events: &Sender<Event>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, LaunchError> {
        let num_shards = recipe.plan.num_shards;
        let meeting_point = (num_shards > 1)
            .then(|| recipe.sockets.meeting_point(generation))
            .transpose()
            .map_err(shard::failed)?;
        let members: Result<Vec<Member>, LaunchError> = (0..num_shards)
            .map(|rank| {
                let origin = Origin { generation, rank };
                let meeting_point = meeting_point.as_ref().map(|point| point.path.as_path());
                let shard = Shard::start(recipe, origin, meeting_point, events.clone(), tasks)?;
                Ok(Member {
                    shard,
                    is_listening: false,
                    is_gone: false,
                })
            })
            .collect();
        Ok(Self {
            started: Instant::now(),
            members: members?,
            endings: Vec::new(),
            _meeting_point: meeting_point,
        })
    }

    /// A shard listens; true where all of them do now.
    pub(crate) fn listens(&mut self, rank: u32) -> bool {
        if let Some(member) = self.members.get_mut(rank as usize) {
            member.is_listening = true;
        }
        self.are_listening()
    }

    /// All of them do, or did.
    pub(crate) fn are_listening(&self) -> bool {
        self.members.iter().all(|member| member.is_listening)
    }

    /// Their addresses, by rank.
    pub(crate) fn uris(&self) -> Vec<String> {
        let uri = |member: &Member| format!("unix://{}", member.shard.socket.display());
        self.members.iter().map(uri).collect()
    }

    /// A shard is gone; true where that was the last one.
    pub(crate) fn ended(&mut self, rank: u32, ending: Ending) -> bool {
        let rank = rank as usize;
        if let Some(member) = self.members.get_mut(rank) {
            member.is_gone = true;
        }
        self.endings.push((rank, ending));
        self.members.iter().all(|member| member.is_gone)
    }

    /// The words of a shard that refused what it was asked for.
    pub(crate) fn refusal(&self) -> Option<&str> {
        let mut endings = self.endings.iter().map(|(_, ending)| ending);
        let refused = endings.find(|ending| ending.status.code() == Some(REFUSES))?;
        Some(&refused.last_words)
    }

    /// Why the first one ended.
    pub(crate) fn reason(&self) -> String {
        match self.endings.first() {
            None => String::new(),
            Some((_, ending)) if self.members.len() == 1 => ending.describe(),
            Some((rank, ending)) => format!("rank {rank}: {}", ending.describe()),
        }
    }

    /// Asks those that live to end.
    pub(crate) fn terminate(&self) {
        self.living().for_each(Shard::terminate);
    }

    /// Ends those that live, hung or stopped or not.
    pub(crate) fn kill(&self) {
        self.living().for_each(Shard::kill);
    }

    fn living(&self) -> impl Iterator<Item = &Shard> {
        let living = self.members.iter().filter(|member| !member.is_gone);
        living.map(|member| &member.shard)
    }
}
