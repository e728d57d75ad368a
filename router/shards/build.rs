//! Compiles the wire without protoc.

use std::error::Error;

const PROTO: &str = "../../proto/ribbon/shard/v1/shard.proto";
const ROOT: &str = "../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let files = protox::compile([PROTO], [ROOT])?;
    // The server side is for this crate's own tests.
    let builder = tonic_prost_build::configure().server_mod_attribute(".", "#[cfg(test)]");
    builder.compile_fds(files)?;
    Ok(())
}
