//! Who gets what: builds the rooms of the router, joins them, and takes them down. No logic of its own.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use ribbon_core::Engine;
use ribbon_http::{AppState, Engines, ModelText};
use ribbon_scheduler::{SchedulerHandle, metrics::Kind};
use ribbon_shards::{GenerationControl, ShardGroups};
use ribbon_text::{ChatTemplate, GrammarCheck, Tokenizer};
use tokio::{net::TcpListener, sync::oneshot, time::timeout};

use crate::{
    answers::OpenAnswers,
    config::Config,
    conversation::{Conversation, Tasks, report_losses},
    error::RouterError,
    launcher_link::{self, Inbox, Outbox, Writer},
    serving::{ConnectionLimits, serve},
    startup::{self, Startup},
};

/// Time that open connections have to take their last bytes.
const LAST_BYTES: Duration = Duration::from_secs(3);
const HTTP_SERVER: &str = "the HTTP server";

/// Serves until the launcher says stop.
///
/// # Errors
/// See [`RouterError`].
pub(crate) async fn run(config: Config) -> Result<(), RouterError> {
    let (mut inbox, outbox, writer) = launcher_link::open().map_err(RouterError::NoLauncher)?;
    let listener = bind(config.address).await?;
    let port = listener
        .local_addr()
        .map_or(config.address.port(), |address| address.port());
    let mut house = House::build(config, writer, outbox, port)?;
    let (stop, stopped) = oneshot::channel();
    let app = house.app.clone();
    house.tasks.spawn(async {
        serve(listener, app, ConnectionLimits::default(), stopped).await;
        HTTP_SERVER
    });
    house.run(&mut inbox, stop).await
}

async fn bind(address: SocketAddr) -> Result<TcpListener, RouterError> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => RouterError::PortInUse(address.port()),
            _ => RouterError::Bind { address, source },
        })?;
    tracing::info!("listening on {}", listener.local_addr().unwrap_or(address));
    Ok(listener)
}

/// The joined rooms.
struct House {
    app: Router,
    tasks: Tasks,
    conversation: Conversation,
    /// Held until the tasks are gone: the scheduler's events end when nobody can announce shards any more.
    _control: GenerationControl,
}

impl House {
    fn build(
        config: Config,
        writer: Writer,
        outbox: Outbox,
        port: u16,
    ) -> Result<Self, RouterError> {
        let mut startup = Startup::begin();
        let text = load_text(&config)?;
        startup.end_phase("tokenizer");
        let prometheus = install_metrics()?;
        let max_input_tokens = config.scheduler.max_input_tokens;
        let (groups, control, hung) = ShardGroups::new(config.shards);
        let (engine, actor) = SchedulerHandle::start(config.scheduler, Box::new(groups));
        let mut tasks = Tasks::new();
        tasks.spawn(async {
            actor.run().await;
            "the scheduler"
        });
        tasks.spawn(report_losses(engine.clone(), outbox.clone()));
        tasks.spawn(async {
            writer.run().await;
            // The launcher is gone; the inbox says so too, and ends the router.
            std::future::pending().await
        });
        let upkeep = ribbon_http::metrics::upkeep(prometheus.clone());
        tasks.spawn(async {
            upkeep.await;
            "the metrics"
        });
        let engines = Engines::single(
            config.http.model_id.clone(),
            Arc::new(engine.clone()) as Arc<dyn Engine>,
        );
        let answers = OpenAnswers::default();
        let state = AppState::new(config.http, engines, text, prometheus)
            .map_err(|error| RouterError::Broken(format!("no thread to validate on: {error}")))?;
        let app = answers.watch(ribbon_http::router(state));
        let held = control.clone();
        let conversation = Conversation {
            engine,
            answers,
            control,
            hung,
            outbox,
            port,
            max_input_tokens,
            startup,
        };
        Ok(Self {
            app,
            tasks,
            conversation,
            _control: held,
        })
    }

    async fn run(
        mut self,
        inbox: &mut Inbox,
        stop: oneshot::Sender<()>,
    ) -> Result<(), RouterError> {
        let engine = self.conversation.engine.clone();
        // The launcher takes the end of the link for ours, so it stays while clients take their last bytes.
        let _link = self.conversation.outbox.clone();
        let end = self.conversation.run(inbox, &mut self.tasks).await;
        if matches!(end, Ok(()) | Err(RouterError::GaveUp(_))) {
            engine.stop();
            stop.send(()).ok();
            if timeout(LAST_BYTES, http_end(&mut self.tasks))
                .await
                .is_err()
            {
                tracing::warn!(
                    "connections were still open after {} s",
                    LAST_BYTES.as_secs()
                );
            }
        }
        end
    }
}

async fn http_end(tasks: &mut Tasks) {
    while let Some(ended) = tasks.join_next().await {
        if matches!(ended, Ok(HTTP_SERVER)) {
            return;
        }
    }
}

fn load_text(config: &Config) -> Result<ModelText, RouterError> {
    let tokenizer = Tokenizer::load(&config.model_path)?;
    let template = ChatTemplate::load(&config.model_path, &tokenizer).unwrap_or_else(|error| {
        tracing::warn!("chat requests will be refused: {error}");
        None
    });
    Ok(ModelText {
        tokenizer: Arc::new(tokenizer),
        template,
        grammars: GrammarCheck::new(&config.model_path),
    })
}

fn install_metrics() -> Result<PrometheusHandle, RouterError> {
    let (durations, sizes) = (
        ribbon_scheduler::metrics::duration_buckets(),
        ribbon_scheduler::metrics::size_buckets(),
    );
    let buckets: Vec<(&str, &[f64])> = ribbon_scheduler::metrics::METRICS
        .iter()
        .filter_map(|metric| match metric.kind {
            Kind::Durations => Some((metric.name, durations.as_slice())),
            Kind::Sizes => Some((metric.name, sizes.as_slice())),
            Kind::Counter | Kind::Gauge => None,
        })
        .collect();
    let handle = ribbon_http::metrics::install(&buckets)
        .map_err(|error| RouterError::Broken(format!("metrics: {error}")))?;
    ribbon_scheduler::metrics::describe();
    startup::describe();
    Ok(handle)
}
