//! What the router does when the launcher speaks, and what it reports back. Decides nothing about requests.

use std::{collections::BTreeMap, time::Duration};

use ribbon_core::Engine;
use ribbon_link::{ToLauncher, ToRouter};
use ribbon_scheduler::SchedulerHandle;
use ribbon_shards::{GenerationControl, Hopeless, Hung, HungReports};
use tokio::task::{JoinError, JoinSet};

use crate::{
    answers::OpenAnswers,
    error::RouterError,
    launcher_link::{Inbox, Outbox},
    startup::{self, Startup},
};

/// How often a starting engine is asked whether it is warm: it has no bell to ring.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Tasks that live as long as the router, each with its name.
pub(crate) type Tasks = JoinSet<&'static str>;

/// The router's half of the conversation.
#[derive(Debug)]
pub(crate) struct Conversation {
    /// What makes tokens.
    pub(crate) engine: SchedulerHandle,
    /// What clients have not taken yet.
    pub(crate) answers: OpenAnswers,
    /// Where generations of shards are announced.
    pub(crate) control: GenerationControl,
    /// Shards that have to be replaced.
    pub(crate) hung: HungReports,
    /// To the launcher.
    pub(crate) outbox: Outbox,
    /// Where we listen.
    pub(crate) port: u16,
    /// Longest prompt that the operator asked for.
    pub(crate) max_input_tokens: Option<u32>,
    /// Our own phases.
    pub(crate) startup: Startup,
}

impl Conversation {
    /// Runs until the launcher says stop.
    ///
    /// # Errors
    /// The launcher is gone or gave up, the warm model contradicts the flags, or one of `tasks` ended by itself.
    pub(crate) async fn run(
        mut self,
        inbox: &mut Inbox,
        tasks: &mut Tasks,
    ) -> Result<(), RouterError> {
        let mut drains = JoinSet::new();
        let mut starting = true;
        loop {
            tokio::select! {
                message = inbox.next() => match message {
                    None => return Err(RouterError::LauncherGone),
                    Some(ToRouter::Stop) => return Ok(()),
                    Some(ToRouter::GiveUp { reason }) => return Err(RouterError::GaveUp(reason)),
                    Some(ToRouter::Drain { grace_seconds }) => {
                        let grace = Duration::try_from_secs_f64(grace_seconds).unwrap_or_default();
                        drains.spawn(drain(self.engine.clone(), self.answers.clone(), grace, self.outbox.clone()));
                    }
                    Some(ToRouter::Ping) => self.outbox.say(ToLauncher::Pong).await,
                    Some(ToRouter::Shards { generation, uris, phases }) => self.on_shards(generation, uris, &phases).await,
                    Some(ToRouter::Lost { generation, reason }) => self.control.lost(generation, reason).await,
                },
                () = warm(&self.engine), if starting => {
                    starting = false;
                    self.on_warm().await?;
                }
                Some(hung) = self.hung.next() => self.on_hung(hung, starting).await?,
                Some(ended) = tasks.join_next() => return Err(broken(ended)),
            }
        }
    }

    async fn on_shards(
        &mut self,
        generation: u64,
        uris: Vec<String>,
        phases: &BTreeMap<String, f64>,
    ) {
        startup::show(phases);
        self.startup.restart_clock();
        self.control.shards(generation, uris).await;
    }

    /// A shard has to be replaced; at the first start one for which that would change nothing ends the router instead.
    async fn on_hung(&mut self, hung: Hung, starting: bool) -> Result<(), RouterError> {
        match hung.hopeless {
            Some(Hopeless::Settings(words)) if starting => Err(RouterError::Limits(words)),
            Some(Hopeless::Shard(words)) if starting => Err(RouterError::Shard(words)),
            _ => {
                let Hung {
                    rank,
                    generation,
                    step,
                    ..
                } = hung;
                self.outbox
                    .say(ToLauncher::Hung {
                        rank,
                        generation,
                        step,
                    })
                    .await;
                Ok(())
            }
        }
    }

    async fn on_warm(&mut self) -> Result<(), RouterError> {
        self.startup.end_phase("warmup");
        let Some(limits) = self.engine.limits() else {
            return Ok(());
        };
        check_limits(self.max_input_tokens, limits.max_total_tokens)?;
        tracing::info!(?limits, "the model is warm");
        startup::show(&self.startup.phases());
        self.outbox
            .say(ToLauncher::Ready {
                port: self.port,
                phases: self.startup.phases(),
            })
            .await;
        Ok(())
    }
}

async fn warm(engine: &SchedulerHandle) {
    while engine.limits().is_none() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn check_limits(max_input_tokens: Option<u32>, max_total_tokens: u32) -> Result<(), RouterError> {
    match max_input_tokens {
        Some(input) if input >= max_total_tokens => Err(RouterError::Limits(format!(
            "`--max-input-tokens` is {input}: it must be below the longest sequence, which is {max_total_tokens} tokens here \
             (the model's positions, `--max-total-tokens` or `--kv-memory`)"
        ))),
        _ => Ok(()),
    }
}

async fn drain(engine: SchedulerHandle, answers: OpenAnswers, grace: Duration, outbox: Outbox) {
    engine.drain(grace).await;
    answers.none().await;
    outbox.say(ToLauncher::Drained).await;
}

/// Reports whether suspects ran when a generation was lost.
pub(crate) async fn report_losses(engine: SchedulerHandle, outbox: Outbox) -> &'static str {
    let mut losses = engine.losses();
    while losses.changed().await.is_ok() {
        let loss = *losses.borrow_and_update();
        if let Some(loss) = loss {
            outbox
                .say(ToLauncher::Suspects {
                    generation: loss.generation,
                    running: loss.suspects_running,
                })
                .await;
        }
    }
    "the scheduler"
}

/// A task that should have lived as long as we do has ended.
fn broken(ended: Result<&'static str, JoinError>) -> RouterError {
    RouterError::Broken(match ended {
        Ok(name) => format!("{name} ended by itself"),
        Err(error) => format!("a part of the router failed: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_limit_that_leaves_no_room_for_a_token_is_refused_with_both_numbers() {
        let message = check_limits(Some(4096), 4096)
            .expect_err("no room")
            .to_string();
        assert!(
            message.contains("--max-input-tokens") && message.contains("4096"),
            "{message}"
        );
        check_limits(Some(4095), 4096).expect("room for one");
        check_limits(None, 2).expect("nothing asked for");
    }
}
