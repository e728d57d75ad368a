//! Compiles the wire without protoc.

use std::{env, error::Error, fs, path::PathBuf};

const PROTO: &str = "../../proto/ribbon/shard/v1/shard.proto";
const ROOT: &str = "../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let files = protox::compile([PROTO], [ROOT])?;
    // The server side is for this crate's own tests.
    let builder = tonic_prost_build::configure().server_mod_attribute(".", "#[cfg(test)]");
    builder.compile_fds(files.clone())?;
    // And for its example, which stands in for a shard.
    let server = out_dir()?.join("server");
    fs::create_dir_all(&server)?;
    let builder = tonic_prost_build::configure().build_client(false);
    builder.out_dir(server).compile_fds(files)?;
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells build scripts in no other way"
)]
fn out_dir() -> Result<PathBuf, &'static str> {
    let place = env::var_os("OUT_DIR").ok_or("cargo gives no OUT_DIR")?;
    Ok(place.into())
}
