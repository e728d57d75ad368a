//! One generation from its first socket to its last outcome. Ends with its first error.

use std::{fmt, future::Future, pin::Pin};

use futures_util::StreamExt;
use ribbon_core::{PlanSink, ShardDescription, ShardEvent, StepPlan};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::Hung;
use crate::{
    ShardError, ShardSettings,
    client::{self, Warm},
    convert, wire,
};

type Pending<T> = Pin<Box<dyn Future<Output = Result<T, ShardError>> + Send>>;

enum Phase {
    Warming(Pending<Warm>),
    /// The stream is open, its answer not there yet.
    Opening(Pending<Streaming<wire::StepOutcome>>),
    Running(Box<Streaming<wire::StepOutcome>>),
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
        let warming = async move {
            let [uri] =
                <[String; 1]>::try_from(uris).map_err(|uris| ShardError::WorldSize(uris.len()))?;
            client::warm(uri, number, settings).await
        };
        Self {
            number,
            phase: Phase::Warming(Box::pin(warming)),
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
                    let warm = warming.await?;
                    return Ok(self.run(warm));
                }
                Phase::Opening(answer) => self.phase = Phase::Running(Box::new(answer.await?)),
                Phase::Running(outcomes) => {
                    let failed = |status| ShardError::Call {
                        call: "Run",
                        status: Box::new(status),
                    };
                    let outcome = outcomes.next().await.ok_or(ShardError::StreamEnded)?;
                    return convert::outcome(outcome.map_err(failed)?).map(ShardEvent::Outcome);
                }
            }
        }
    }

    fn run(&mut self, warm: Warm) -> ShardEvent {
        let description: Box<ShardDescription> = Box::new(warm.description.clone());
        let (plans, answer) = warm.run();
        self.phase = Phase::Opening(Box::pin(answer));
        let plans = Plans {
            to_shard: plans,
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

/// Where the plans of one generation go.
#[derive(Debug)]
struct Plans {
    to_shard: mpsc::Sender<wire::StepPlan>,
    hung: mpsc::Sender<Hung>,
    generation: u64,
}

impl PlanSink for Plans {
    fn send(&mut self, plan: StepPlan) {
        match self.to_shard.try_send(convert::plan(&plan)) {
            // Closed: the generation is lost, which comes up as an event of its own.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.report_hung(plan.step_id),
        }
    }

    fn report_hung(&self, step_id: u64) {
        let hung = Hung {
            rank: 0,
            generation: self.generation,
            step: step_id,
            refused: None,
        };
        report(&self.hung, hung);
    }
}
