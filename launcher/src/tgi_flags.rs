//! TGI's launcher flags that are not built yet: refused by name, never ignored. Knows no process and no plan.

use clap::{Arg, ArgAction, ArgMatches, parser::ValueSource};

/// A flag of TGI that Ribbon does not have yet.
pub(crate) struct UnbuiltFlag {
    /// Without the dashes.
    pub(crate) name: &'static str,
    /// It is followed by a value.
    pub(crate) takes_value: bool,
    /// TGI's default: in the environment it asks for nothing.
    default: Option<&'static str>,
    /// Values that already describe what Ribbon does, wherever they are given.
    neutral: &'static [&'static str],
}

const fn value(name: &'static str) -> UnbuiltFlag {
    UnbuiltFlag {
        name,
        takes_value: true,
        default: None,
        neutral: &[],
    }
}

const fn switch(name: &'static str) -> UnbuiltFlag {
    UnbuiltFlag {
        name,
        takes_value: false,
        default: Some("false"),
        neutral: &[],
    }
}

impl UnbuiltFlag {
    const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    const fn neutral(mut self, values: &'static [&'static str]) -> Self {
        self.neutral = values;
        self
    }

    /// Name of its environment variable.
    pub(crate) fn variable(&self) -> String {
        self.name.to_uppercase().replace('-', "_")
    }

    fn arg(&self) -> Arg {
        // Clap keeps names for the life of the program, and the command is built once.
        let variable: &'static str = self.variable().leak();
        let arg = Arg::new(self.name).long(self.name).env(variable).hide(true);
        if self.takes_value {
            arg.num_args(0..=1).action(ArgAction::Append)
        } else {
            arg.action(ArgAction::SetTrue)
        }
    }

    fn values(&self, matches: &ArgMatches) -> Vec<String> {
        if !self.takes_value {
            return vec![matches.get_flag(self.name).to_string()];
        }
        matches
            .get_many::<String>(self.name)
            .map(|values| values.cloned().collect())
            .unwrap_or_default()
    }

    fn is_neutral(&self, value: &str, source: ValueSource) -> bool {
        self.neutral.contains(&value)
            || (source == ValueSource::EnvVariable && self.default == Some(value))
    }

    fn refusal(&self, matches: &ArgMatches) -> Option<String> {
        let source = matches
            .value_source(self.name)
            .filter(|source| *source != ValueSource::DefaultValue)?;
        let values = self.values(matches);
        if !values.is_empty() && values.iter().all(|value| self.is_neutral(value, source)) {
            return None;
        }
        let origin = if source == ValueSource::EnvVariable {
            format!(" (environment variable {})", self.variable())
        } else {
            String::new()
        };
        Some(format!(
            "`--{}`{origin} is not built yet in Ribbon: leave it out",
            self.name
        ))
    }
}

/// Every flag of TGI's launcher that Ribbon refuses. An entry goes away when its flag is built.
pub(crate) const UNBUILT: &[UnbuiltFlag] = &[
    value("sharded").neutral(&["false"]),
    value("quantize"),
    value("speculate").neutral(&["0"]),
    value("kv-cache-dtype"),
    switch("trust-remote-code"),
    value("cuda-graphs")
        .default("1,2,4,8,16,32")
        .neutral(&["0"]),
    value("prometheus-port").default("9000"),
    value("master-addr").default("localhost"),
    value("master-port").default("29500"),
    value("weights-cache-override"),
    // There are no such kernels: to be without them is what Ribbon does.
    switch("disable-custom-kernels").neutral(&["true"]),
    value("cuda-memory-fraction")
        .default("1.0")
        .neutral(&["1", "1.0"]),
    value("rope-scaling"),
    value("rope-factor"),
    value("otlp-endpoint"),
    value("otlp-service-name").default("text-generation-inference.router"),
    switch("ngrok"),
    value("ngrok-authtoken"),
    value("ngrok-edge"),
    value("tokenizer-config-path"),
    value("lora-adapters"),
    // They are there for whoever asks: nothing has to be prepared for them.
    switch("enable-prefill-logprobs").neutral(&["true"]),
];

/// The refused flags as hidden arguments, so that they parse, and spelling suggestions know them.
pub(crate) fn hidden_args() -> impl Iterator<Item = Arg> {
    UNBUILT.iter().map(UnbuiltFlag::arg)
}

/// Refuses every unbuilt flag that asks for something, all of them in one message. Names no value: one may be a secret.
pub(crate) fn refuse(matches: &ArgMatches) -> Result<(), String> {
    let refusals: Vec<String> = UNBUILT
        .iter()
        .filter_map(|flag| flag.refusal(matches))
        .collect();
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(refusals.join("\n"))
    }
}
