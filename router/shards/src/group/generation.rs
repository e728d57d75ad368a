//! One generation from its first socket to its last outcome. Ends with its first error.

use std::{fmt, future::Future, pin::Pin};

use futures_util::future::try_join_all;
use ribbon_core::{PlanSink, ShardDescription, ShardEvent, StepPlan};
use tokio::sync::mpsc;

use super::{Hung, outcomes::Outcomes};
use crate::{
    ShardError, ShardSettings,
    client::{self, Place, Warm},
    convert, wire,
};

type Pending<T> = Pin<Box<dyn Future<Output = Result<T, ShardError>> + Send>>;

enum Phase {
    Warming(Pending<Group>),
    /// The streams are open, their answers not there yet.
    Opening(Pending<Outcomes>),
    Running(Box<Outcomes>),
}

/// A generation under way.
pub(super) struct Generation {
    number: u64,
    phase: Phase,
    hung: mpsc::Sender<Hung>,
}

impl Generation {
    pub(super) fn new(
        number: u64,
        uris: Vec<String>,
        settings: ShardSettings,
        hung: mpsc::Sender<Hung>,
    ) -> Self {
        Self {
            number,
            phase: Phase::Warming(Box::pin(Group::warm(uris, number, settings))),
            hung,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next event. Loses nothing when dropped before it is done.
    pub(super) async fn next(&mut self) -> Result<ShardEvent, ShardError> {
        loop {
            match &mut self.phase {
                Phase::Warming(warming) => {
                    let group = warming.await?;
                    return Ok(self.run(group));
                }
                Phase::Opening(answers) => self.phase = Phase::Running(Box::new(answers.await?)),
                Phase::Running(outcomes) => {
                    return convert::outcome(outcomes.next().await?).map(ShardEvent::Outcome);
                }
            }
        }
    }

    fn run(&mut self, group: Group) -> ShardEvent {
        let description = Box::new(group.description);
        let (plans, answers): (Vec<_>, Vec<_>) = group.shards.into_iter().map(Warm::run).unzip();
        self.phase = Phase::Opening(Box::pin(Outcomes::of(answers)));
        let plans = Plans {
            to_shards: plans,
            hung: self.hung.clone(),
            generation: self.number,
        };
        ShardEvent::Ready {
            description,
            plans: Box::new(plans),
            generation: self.number,
        }
    }
}

/// All shards of a generation, warm.
struct Group {
    description: ShardDescription,
    /// Ordered by rank.
    shards: Vec<Warm>,
}

impl Group {
    /// The shards talk to each other while they warm up, so that all of them have to be asked at once.
    async fn warm(
        uris: Vec<String>,
        generation: u64,
        settings: ShardSettings,
    ) -> Result<Self, ShardError> {
        let world_size = uris.len() as u32;
        let warming = (0..).zip(uris).map(|(rank, uri)| {
            let place = Place { rank, world_size };
            client::warm(uri, generation, place, settings)
        });
        let shards = try_join_all(warming).await?;
        let descriptions = shards.iter().map(|shard| shard.description.clone());
        Ok(Self {
            description: convert::together(descriptions)?,
            shards,
        })
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Generation({})", self.number)
    }
}

/// Tells the launcher that a generation has to be replaced.
pub(super) fn report(reports: &mpsc::Sender<Hung>, hung: Hung) {
    if let Err(error) = reports.try_send(hung) {
        tracing::error!("the launcher takes no reports: {error}");
    }
}

/// Where the plans of one generation go: every shard gets all of them.
#[derive(Debug)]
struct Plans {
    /// Ordered by rank.
    to_shards: Vec<mpsc::Sender<wire::StepPlan>>,
    hung: mpsc::Sender<Hung>,
    generation: u64,
}

impl PlanSink for Plans {
    fn send(&mut self, plan: StepPlan) {
        let message = convert::plan(&plan);
        let Some((first, others)) = self.to_shards.split_first() else {
            return;
        };
        for (other, rank) in others.iter().zip(1..) {
            self.give(other, rank, message.clone());
        }
        self.give(first, 0, message);
    }

    fn report_hung(&self, step_id: u64) {
        self.report(0, step_id);
    }
}

impl Plans {
    fn give(&self, shard: &mpsc::Sender<wire::StepPlan>, rank: u32, plan: wire::StepPlan) {
        let step_id = plan.step_id;
        match shard.try_send(plan) {
            // Closed: the generation is lost, which comes up as an event of its own.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.report(rank, step_id),
        }
    }

    fn report(&self, rank: u32, step_id: u64) {
        let hung = Hung {
            rank,
            generation: self.generation,
            step: step_id,
            hopeless: None,
        };
        report(&self.hung, hung);
    }
}
