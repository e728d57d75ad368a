"""What a spec says and an encoder-decoder here has no part for is refused, never left out."""

from dataclasses import replace

import pytest
from tiny import save_tiny

from ribbon_server.errors import ModelNotSupported
from ribbon_server.layers.registry import native_kernels
from ribbon_server.models.assemble import assemble
from ribbon_server.models.checkpoint import SafetensorsCheckpoint
from ribbon_server.models.registry import family_of
from ribbon_server.models.spec import LearnedPositions, ModelSpec, Norm, Residual

NAME = "T5ForConditionalGeneration"
NORM = Norm.rms(1e-6)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = save_tiny(tmp_path_factory.mktemp("t5"), NAME, decoder_start_token_id=5).folder
    return family_of(NAME).build(SafetensorsCheckpoint(folder).config)


def in_encoder(spec: ModelSpec, **fields: object) -> ModelSpec:
    """The last layer of the encoder with some fields changed."""
    *others, last = spec.encoder.layers
    return replace(spec, encoder=replace(spec.encoder, layers=(*others, replace(last, **fields))))


def in_decoder(spec: ModelSpec, **fields: object) -> ModelSpec:
    """The last layer of the decoder with some fields changed."""
    *others, last = spec.layers
    return replace(spec, layers=(*others, replace(last, **fields)))


CASES = {
    "this encoder has a residual": lambda spec: in_encoder(spec, residual=Residual.PARALLEL),
    "this decoder has a residual": lambda spec: in_decoder(spec, residual=Residual.PARALLEL),
    "this encoder has a norm behind": lambda spec: in_encoder(spec, attention_output_norm=NORM),
    "this decoder has a norm behind": lambda spec: in_decoder(spec, attention_output_norm=NORM),
    "this encoder has attention to the prompt": lambda spec: in_encoder(spec, cross=spec.layers[0].cross),
    "this encoder has a norm before attention": lambda spec: in_encoder(spec, cross_norm=NORM),
    "this decoder has a norm before attention": lambda spec: in_decoder(spec, cross=None),
    "no table of positions": lambda spec: replace(
        spec, embedding=replace(spec.embedding, positions=LearnedPositions())
    ),
}


@pytest.mark.parametrize("words", CASES)
def test_what_nothing_would_read_is_refused(spec: ModelSpec, words: str) -> None:
    with pytest.raises(ModelNotSupported, match=words):
        assemble(CASES[words](spec), {}, native_kernels())
