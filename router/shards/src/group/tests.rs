//! Against a small server over a real unix socket, generated from the same proto.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use ribbon_core::{PlanSink, RowResult, ShardEvent, Shards, Slot, StepPlan, Wanted, WorkItem};
use tokio::{net::UnixListener, runtime::Runtime, time::timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::*;
use crate::{
    client::Place,
    convert::tests_warm,
    wire::{
        self,
        shard_server::{Shard, ShardServer},
    },
};

const SOON: Duration = Duration::from_secs(20);
/// Generations whose shards answer `Describe` with an error.
const STILL_BUSY: u64 = 3;
const OF_AN_OLDER_WIRE: u64 = 4;

type Outcomes = Pin<Box<dyn Stream<Item = Result<wire::StepOutcome, Status>> + Send>>;

/// Feeds every row; step 3 of the first shard breaks the stream, step 5 of the others.
#[derive(Clone, Copy)]
struct FakeShard {
    generation: u64,
    place: Place,
}

fn u32s(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|value| u32::from_le_bytes(value.try_into().unwrap()))
        .collect()
}

fn answer(plan: &wire::StepPlan, rank: u32) -> Result<wire::StepOutcome, Status> {
    match (plan.step_id, rank) {
        (3, 0) => return Err(Status::internal("the third step is too much")),
        (5, 1..) => return Err(Status::internal("a follower gives up")),
        _ => {}
    }
    let slot = plan.work.as_ref().unwrap().slot.clone();
    let rows = u32s(&slot).len();
    Ok(wire::StepOutcome {
        step_id: plan.step_id,
        slot,
        // Nobody may take a follower's word.
        status: vec![if rank == 0 { 1 } else { 6 }; rows],
        token_id: vec![0; rows * 4],
        logprob: vec![0; rows * 4],
        top_count: vec![0; rows],
        ..Default::default()
    })
}

#[tonic::async_trait]
impl Shard for FakeShard {
    type RunStream = Outcomes;

    async fn describe(
        &self,
        _: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::DescribeResponse>, Status> {
        match self.generation {
            STILL_BUSY => return Err(Status::unavailable("not now")),
            OF_AN_OLDER_WIRE => return Err(Status::unimplemented("no such call")),
            _ => {}
        }
        let shard = tests_warm().description.unwrap();
        Ok(Response::new(wire::DescribeResponse {
            generation: self.generation,
            rank: self.place.rank,
            world_size: self.place.world_size,
            ..shard
        }))
    }

    async fn warmup(
        &self,
        request: Request<wire::WarmupRequest>,
    ) -> Result<Response<wire::WarmupResponse>, Status> {
        let request = request.into_inner();
        if request.max_total_tokens == 13 {
            return Err(Status::resource_exhausted("13 tokens bring bad luck"));
        }
        if request.max_total_tokens == 14 {
            return Err(Status::invalid_argument("14 tokens are too many"));
        }
        let budget = request.max_batch_prefill_tokens;
        let mut warm = tests_warm();
        if let Some(shard) = &mut warm.description {
            shard.world_size = self.place.world_size;
        }
        Ok(Response::new(wire::WarmupResponse {
            max_batch_prefill_tokens: budget,
            ..warm
        }))
    }

    async fn run(
        &self,
        plans: Request<Streaming<wire::StepPlan>>,
    ) -> Result<Response<Outcomes>, Status> {
        // As grpc's Python server does: no answer before the first outcome.
        let mut plans = plans.into_inner();
        let first = plans
            .message()
            .await?
            .ok_or_else(|| Status::cancelled("no plan"))?;
        let rank = self.place.rank;
        let outcomes = stream::once(async move { answer(&first, rank) });
        let rest = plans.map(move |plan| answer(&plan?, rank));
        Ok(Response::new(Box::pin(outcomes.chain(rest))))
    }
}

static SOCKETS: AtomicU32 = AtomicU32::new(0);

/// Shards that listen, and everything that faces them.
struct House {
    /// Of the first shard.
    uri: String,
    /// Of all of them, by rank.
    uris: Vec<String>,
    paths: Vec<PathBuf>,
    /// The shards' processes, as it were: everything in one ends with it.
    processes: Vec<Runtime>,
    control: GenerationControl,
    hung: HungReports,
    events: Pin<Box<dyn Stream<Item = ShardEvent> + Send>>,
}

impl House {
    fn new(generation: u64, max_total_tokens: Option<u32>) -> Self {
        Self::of(1, generation, max_total_tokens)
    }

    fn of(world_size: u32, generation: u64, max_total_tokens: Option<u32>) -> Self {
        let (paths, processes): (Vec<PathBuf>, Vec<Runtime>) = (0..world_size)
            .map(|rank| {
                let place = Place { rank, world_size };
                listening(FakeShard { generation, place })
            })
            .unzip();
        let uris: Vec<String> = paths
            .iter()
            .map(|path| format!("unix://{}", path.display()))
            .collect();
        let (groups, control, hung) = ShardGroups::new(ShardSettings {
            max_batch_prefill_tokens: Some(96),
            max_total_tokens,
            max_concurrent_requests: 8,
        });
        let events = Box::new(groups).events();
        Self {
            uri: uris[0].clone(),
            uris,
            paths,
            processes,
            control,
            hung,
            events,
        }
    }

    async fn next(&mut self) -> ShardEvent {
        timeout(SOON, self.events.next()).await.unwrap().unwrap()
    }

    async fn ready(&mut self) -> Box<dyn PlanSink> {
        self.control.shards(1, self.uris.clone()).await;
        match self.next().await {
            ShardEvent::Ready {
                description,
                plans,
                generation: 1,
            } => {
                assert_eq!(description.max_batch_prefill_tokens, 96);
                assert_eq!(description.num_shards as usize, self.uris.len());
                plans
            }
            other => panic!("{other:?}"),
        }
    }

    async fn lost(&mut self) -> String {
        match self.next().await {
            ShardEvent::Lost { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    async fn hung(&mut self) -> Hung {
        timeout(SOON, self.hung.next()).await.unwrap().unwrap()
    }
}

/// A shard at a new path.
fn listening(shard: FakeShard) -> (PathBuf, Runtime) {
    let number = SOCKETS.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("ribbon-{}-{number}", std::process::id()));
    let process = serve(&path, shard);
    (path, process)
}

/// A server with threads of its own at `path`, listening on return.
fn serve(path: &Path, shard: FakeShard) -> Runtime {
    let runtime = Runtime::new().unwrap();
    let inside = runtime.enter();
    let listener = UnixListener::bind(path).unwrap();
    let server = Server::builder().add_service(ShardServer::new(shard));
    let serving = server.serve_with_incoming(UnixListenerStream::new(listener));
    drop(runtime.spawn(serving));
    drop(inside);
    runtime
}

impl House {
    fn kill(&mut self) {
        for process in self.processes.drain(..) {
            process.shutdown_background();
        }
    }

    /// Ends one shard and leaves the others.
    fn kill_last(&mut self) {
        if let Some(process) = self.processes.pop() {
            process.shutdown_background();
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.kill();
        for path in &self.paths {
            std::fs::remove_file(path).ok();
        }
    }
}

fn plan(step_id: u64) -> StepPlan {
    let work = vec![WorkItem {
        slot: Slot(4),
        count: 2,
        wanted: Wanted::Nothing,
        scores_prompt: false,
        pools: None,
    }];
    StepPlan {
        step_id,
        work,
        ..StepPlan::default()
    }
}

#[tokio::test]
async fn plans_go_down_and_outcomes_come_up() {
    let mut house = House::new(1, None);
    let mut plans = house.ready().await;
    plans.send(plan(1));
    plans.send(plan(2));
    for step in [1, 2] {
        let ShardEvent::Outcome(outcome) = house.next().await else {
            panic!("no outcome")
        };
        assert_eq!(outcome.step_id, step);
        assert_eq!(
            (outcome.rows[0].slot, &outcome.rows[0].result),
            (Slot(4), &RowResult::Fed)
        );
    }
}

#[tokio::test]
async fn every_shard_of_a_group_gets_every_plan_and_the_first_one_answers() {
    let mut house = House::of(3, 1, None);
    let mut plans = house.ready().await;
    for step in [1, 2] {
        plans.send(plan(step));
        let ShardEvent::Outcome(outcome) = house.next().await else {
            panic!("no outcome")
        };
        assert_eq!(outcome.step_id, step);
        assert_eq!(outcome.rows[0].result, RowResult::Fed);
    }
    // Only a follower breaks here, so it got this plan.
    plans.send(plan(5));
    let mut event = house.next().await;
    if matches!(event, ShardEvent::Outcome(_)) {
        event = house.next().await;
    }
    let ShardEvent::Lost { reason } = event else {
        panic!("{event:?}")
    };
    assert!(reason.contains("a follower gives up"), "{reason}");
    assert_eq!(house.hung().await.generation, 1);
}

#[tokio::test]
async fn a_dead_follower_is_a_loss() {
    let mut house = House::of(2, 1, None);
    let mut plans = house.ready().await;
    plans.send(plan(1));
    assert!(matches!(house.next().await, ShardEvent::Outcome(_)));
    house.kill_last();
    assert!(!house.lost().await.is_empty());
}

#[tokio::test]
async fn a_broken_stream_is_a_loss_and_the_launcher_hears_of_it() {
    let mut house = House::new(1, None);
    let mut plans = house.ready().await;
    plans.send(plan(3));
    assert!(house.lost().await.contains("the third step is too much"));
    assert_eq!(
        house.hung().await,
        Hung {
            rank: 0,
            generation: 1,
            step: 0,
            hopeless: None,
        }
    );
    plans.send(plan(4));
    // The launcher's own word about the same generation comes too late to matter; the next generation is not touched.
    house.control.lost(1, "killed by signal 9".into()).await;
    house.control.shards(1, vec![house.uri.clone()]).await;
    assert!(matches!(house.next().await, ShardEvent::Ready { .. }));
}

#[tokio::test]
async fn what_the_launcher_loses_is_lost_and_only_that() {
    let mut house = House::new(1, None);
    let _plans = house.ready().await;
    house.control.lost(7, "another one".into()).await;
    house.control.lost(1, "killed by signal 9".into()).await;
    assert_eq!(house.lost().await, "killed by signal 9");
}

#[tokio::test]
async fn a_new_generation_replaces_one_that_lives() {
    let mut house = House::new(1, None);
    let _old = house.ready().await;
    house.control.shards(1, vec![house.uri.clone()]).await;
    assert_eq!(house.lost().await, "replaced by a new generation");
    assert!(matches!(house.next().await, ShardEvent::Ready { .. }));
}

#[tokio::test]
async fn a_hung_step_is_passed_on() {
    let mut house = House::new(1, None);
    let plans = house.ready().await;
    plans.report_hung(17);
    assert_eq!(
        house.hung().await,
        Hung {
            rank: 0,
            generation: 1,
            step: 17,
            hopeless: None,
        }
    );
}

#[tokio::test]
async fn what_cannot_be_warmed_is_lost_with_the_reason() {
    let (missing, tcp) = (
        Some("unix:///tmp/ribbon-no-such-socket"),
        Some("http://127.0.0.1:1"),
    );
    let cases = [
        (Some(13), 1, None, "13 tokens bring bad luck", false),
        (None, 1, missing, "cannot connect", false),
        (None, STILL_BUSY, None, "not now", false),
        (None, 2, None, "generation 2, not 1", true),
        (None, 1, tcp, "only `unix://`", true),
        (None, OF_AN_OLDER_WIRE, None, "no such call", true),
    ];
    for (max_total_tokens, generation, elsewhere, reason, is_hopeless) in cases {
        let mut house = House::new(generation, max_total_tokens);
        let uri = elsewhere.map_or_else(|| house.uri.clone(), str::to_owned);
        house.control.shards(1, vec![uri]).await;
        let said = house.lost().await;
        assert!(said.contains(reason), "{reason}: {said}");
        let hung = house.hung().await;
        assert_eq!(hung.generation, 1);
        match hung.hopeless {
            Some(Hopeless::Shard(words)) if is_hopeless => {
                assert!(words.contains(reason), "{words}");
            }
            None if !is_hopeless => {}
            other => panic!("{reason}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_shard_that_is_alone_is_no_group() {
    for (num_uris, reason) in [(2, "2 shards"), (0, "no shards")] {
        let mut house = House::new(1, None);
        let uris = vec![house.uri.clone(); num_uris];
        house.control.shards(1, uris).await;
        let said = house.lost().await;
        assert!(said.contains(reason), "{reason}: {said}");
        assert_eq!(house.hung().await.generation, 1);
    }
}

#[tokio::test]
async fn a_refusal_of_the_settings_is_passed_on_in_the_shards_words() {
    let mut house = House::new(1, Some(14));
    house.control.shards(1, vec![house.uri.clone()]).await;
    assert!(house.lost().await.contains("14 tokens are too many"));
    assert_eq!(
        house.hung().await.hopeless,
        Some(Hopeless::Settings("14 tokens are too many".to_owned()))
    );
}

#[tokio::test]
async fn a_dead_server_is_a_loss() {
    let mut house = House::new(1, None);
    let _plans = house.ready().await;
    // The stream's answer has not come yet, so the broken connection shows there.
    house.kill();
    assert!(!house.lost().await.is_empty());
}

#[tokio::test]
async fn without_a_launcher_the_events_end() {
    let (groups, control, _hung) = ShardGroups::new(ShardSettings {
        max_batch_prefill_tokens: None,
        max_total_tokens: None,
        max_concurrent_requests: 1,
    });
    let mut events = Box::new(groups).events();
    drop(control);
    assert!(timeout(SOON, events.next()).await.unwrap().is_none());
}
