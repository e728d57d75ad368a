"""The other side of parity, in a process of its own: saves tiny random models under their real names, with logits to meet.

Run: python reference_side.py FOLDER KEY …
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import nn

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "reference"), str(TESTS.parent), str(Path(__file__).parent)]

from cases import Case, cases  # noqa: E402

# Eager attention is the plainest; transformers 5.23's adds Falcon's ALiBi a second time, its other way does not.
ATTENTION = {"FalconForCausalLM": "sdpa"}
PROMPT_TOKENS, GENERATED_TOKENS, VOCAB = 32, 64, 160
torch.set_num_threads(1)


def build(case: Case) -> nn.Module:
    """transformers' class, or our own eager one where it ships none, with random weights in float32."""
    torch.manual_seed(11)
    architecture: Any = getattr(transformers, case.architecture, None)
    if architecture is None:
        model = own_reference(case)
    else:
        config = architecture.config_class(**{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **case.fields})
        config._attn_implementation = ATTENTION.get(case.architecture, "eager")
        model = architecture(config)
    untie(model, case)
    model = model.float().eval()
    for name, parameter in model.named_parameters():
        # Wide enough that the next token depends on every part, the norms' weights included.
        is_scale = parameter.dim() == 1 and not name.endswith("bias")
        nn.init.normal_(parameter, 1.0 if is_scale else 0.0, 0.2)
    saved = model.state_dict()
    for name, buffer in model.named_buffers():
        if name in saved and buffer.is_floating_point():  # learned too, though not by gradients
            nn.init.normal_(buffer, 0.0, 0.2)
    return model


def untie(model: nn.Module, case: Case) -> None:
    """A head of its own where the configuration asks for one and the class ties it nevertheless, as it does not in real checkpoints."""
    if case.fields.get("tie_word_embeddings") is False and model.lm_head.weight is model.get_input_embeddings().weight:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


def own_reference(case: Case) -> nn.Module:
    """The class of `tests/reference/<module>.py`, which takes the configuration's fields."""
    path = TESTS / "reference" / f"{case.module}.py"
    spec = importlib.util.spec_from_file_location(f"reference_{case.module}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise LookupError(f"{case.architecture} has no reference: write {path.name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, case.architecture)(case.fields)


@torch.inference_mode()
def make(case: Case, folder: Path) -> None:
    """Saves the model, and the tokens and logits of one sequence: a random prompt, then what the model says itself."""
    model = build(case)
    model.save_pretrained(folder)
    tokens = torch.randint(3, VOCAB, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(5))
    config = getattr(model, "config", None)  # ours have none, and no encoder
    read = PROMPT_TOKENS if config is not None and config.is_encoder_decoder else 0
    if read:
        tokens = torch.cat((tokens, torch.tensor([[config.pad_token_id]])), dim=1)
    for _ in range(GENERATED_TOKENS):
        logits = said(model, tokens, read)
        tokens = torch.cat((tokens, logits[:, -1:].argmax(-1)), dim=1)
    logits = said(model, tokens, read)[0].float()
    # Tokens that an encoder reads have no logits; the checks compare zeros there.
    logits = torch.cat((torch.zeros(read, logits.shape[1]), logits))
    saved = {"tokens": tokens[0], "logits": logits.contiguous(), "read": torch.tensor(read)}
    save_file(saved, folder / "expected.safetensors")


def said(model: nn.Module, tokens: torch.Tensor, read: int) -> torch.Tensor:
    """Logits behind every token that no encoder reads. The whole sequence each time: no cache of the reference takes part in the
    comparison."""
    if not read:
        return model(tokens, use_cache=False).logits
    return model(tokens[:, :read], decoder_input_ids=tokens[:, read:], use_cache=False).logits


def main(folder: Path, keys: list[str]) -> None:
    """Makes the named cases; prints what failed as a JSON line."""
    failed = {}
    for case in cases():
        if case.key in keys:
            (folder / case.key).mkdir()
            try:
                make(case, folder / case.key)
            except Exception as error:  # noqa: BLE001 - one family's mistake is one row of the report
                failed[case.key] = f"{type(error).__name__}: {error}"
    print(json.dumps(failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
