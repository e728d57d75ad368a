//! The words of the router: requests, plans, outcomes, and the two seams that other rooms meet at.
//!
//! Pure data and arithmetic. Knows no runtime, no HTTP and no wire format.

pub mod debug;
pub mod engine;
pub mod finish;
pub mod grammar;
pub mod limits;
pub mod plan;
pub mod sampling;
pub mod shards;

pub use debug::{PagesSnapshot, RibbonsSnapshot, SlotSnapshot, SpanSnapshot, StorageSnapshot};
pub use engine::{
    DebugAnswer, Engine, EngineLoad, EngineState, Line, Pooling, Refusal, Search, SequenceRequest,
    StreamError, Token, TokenEvent, TokenScore, TokenStream, Tokens,
};
pub use finish::FinishReason;
pub use grammar::{Grammar, GrammarKind};
pub use limits::Limits;
pub use plan::{
    Admission, GroupOp, KvGroup, KvKind, PromptRuns, RibbonOp, RowOutcome, RowResult,
    ShardDescription, Slot, StepOutcome, StepPlan, StepTimings, Storage, Wanted, WorkItem,
};
pub use sampling::{Sampling, Watermark};
pub use shards::{PlanSink, ShardEvent, Shards};
