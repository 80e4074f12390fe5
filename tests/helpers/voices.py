"""Voices of other implementations, made for tests: transformers.VitsModel is the judge, also for files of others.

A G_*.pth or a Piper .ckpt is its weights under the names of the published code, which stand here once more, as regular
expressions, so that an error in our tables cannot hide.
"""

import json
import re
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitslite import randomness
from vitslite.synthesis import Synthesizer

TEXT = "the old fox sings to a red hen."
SYMBOLS = ["_", "^", "$", *" .,", *"abcdefghijklmnopqrstuvwxyz", *"ˈˌːɪəðɔɑɒɛɡŋɹʃʊʌθæɐɚɜᵻɾɫ"]
SEED = 3

SMALL = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "flow_size": 24,
    "spectrogram_bins": 65,
    "prior_encoder_num_wavenet_layers": 4,
    "posterior_encoder_num_wavenet_layers": 16,
    "duration_predictor_filter_channels": 256,
    "upsample_initial_channel": 32,
    "upsample_rates": [4, 4, 2],
    "upsample_kernel_sizes": [8, 8, 4],
    "sampling_rate": 16000,
}
LIGHT = {  # Piper's medium decoder
    "spectrogram_bins": 257,
    "resblock_kernel_sizes": [3, 5, 7],
    "resblock_dilation_sizes": [[1, 2], [2, 6], [3, 12]],
    "upsample_rates": [8, 8, 4],
    "upsample_kernel_sizes": [16, 16, 8],
}

TO_ORIGINAL = [  # transformers -> the published code
    (r"^text_encoder\.embed_tokens", "enc_p.emb"),
    (r"^text_encoder\.project", "enc_p.proj"),
    (r"^text_encoder\.encoder\.layers\.(\d+)\.attention\.([qkv])_proj", r"enc_p.encoder.attn_layers.\1.conv_\2"),
    (r"^text_encoder\.encoder\.layers\.(\d+)\.attention\.out_proj", r"enc_p.encoder.attn_layers.\1.conv_o"),
    (r"^text_encoder\.encoder\.layers\.(\d+)\.attention\.", r"enc_p.encoder.attn_layers.\1."),
    (r"^text_encoder\.encoder\.layers\.(\d+)\.feed_forward\.", r"enc_p.encoder.ffn_layers.\1."),
    (r"^text_encoder\.encoder\.layers\.(\d+)\.layer_norm\.", r"enc_p.encoder.norm_layers_1.\1."),
    (r"^text_encoder\.encoder\.layers\.(\d+)\.final_layer_norm\.", r"enc_p.encoder.norm_layers_2.\1."),
    (r"^posterior_encoder\.", "enc_q."),
    (r"^decoder\.upsampler", "dec.ups"),
    (r"^decoder\.", "dec."),
    (r"^duration_predictor\.", "dp."),
    (r"^embed_speaker", "emb_g"),
    (r"^flow\.flows\.(\d+)", lambda m: f"flow.flows.{2 * int(m[1])}"),
    (r"^dp\.(post_)?flows\.(\d+)", lambda m: f"dp.{m[1] or ''}flows.{max(0, 2 * int(m[2]) - 1)}"),
    (r"^((?:enc_q|flow)\..*)\bwavenet\.", r"\1enc."),
    (r"^((?:enc_q|flow)\..*)\bconv_(pre|post|proj)\b", r"\1\2"),
    (r"^dp\.(.*)conv_dds\.", r"dp.\1convs."),
    (r"^dp\.(.*)conv_(pre|proj)\b", r"dp.\1\2"),
    (r"convs_dilated", "convs_sep"),
    (r"convs_pointwise", "convs_1x1"),
    (r"(flows\.0\.)translate", r"\1m"),
    (r"(flows\.0\.)log_scale", r"\1logs"),
    (r"(norm\w*(?:\.\d+)*\.)weight$", r"\1gamma"),
    (r"(norm\w*(?:\.\d+)*\.)bias$", r"\1beta"),
    (r"parametrizations\.weight\.original0", "weight_g"),
    (r"parametrizations\.weight\.original1", "weight_v"),
]


class LightBlock(nn.Module):
    """x <- x + conv(leaky ReLU(x)) for each dilation: the residual block of small HiFi-GANs."""

    def __init__(self, channels: int, kernel: int, dilations: list[int]):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2) for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, 0.1))
        return x


def theirs(light: bool = False, n_speakers: int = 1, stochastic: bool = True, n_symbols: int = len(SYMBOLS), **changes):
    """A transformers.VitsModel with weights as convolutions start, and none of them at zero: it does not saturate."""
    import transformers

    settings = SMALL | (LIGHT if light else {}) | changes
    config = transformers.VitsConfig(
        vocab_size=n_symbols,
        use_stochastic_duration_prediction=stochastic,
        num_speakers=n_speakers,
        speaker_embedding_size=16 if n_speakers > 1 else 0,
        **settings,
    )
    model = transformers.VitsModel(config).eval()
    if light:
        s, n = config, len(config.resblock_kernel_sizes)
        for i in range(len(model.decoder.resblocks)):
            kernel, dilations = s.resblock_kernel_sizes[i % n], s.resblock_dilation_sizes[i % n]
            model.decoder.resblocks[i] = LightBlock(s.upsample_initial_channel // 2 ** (i // n + 1), kernel, dilations)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                p.uniform_(0.8, 1.2)
            elif name.endswith("original0"):
                p.uniform_(0.4, 0.7)
            elif p.ndim > 1 and "embed" not in name:
                p.uniform_(-1, 1).mul_(max(p[0].numel(), 9) ** -0.5)
            else:
                p.uniform_(-0.3, 0.3)
    return model


def spoken_by(model, voice: Synthesizer, text: str = TEXT, speaker: int | None = None) -> Tensor:
    """What transformers says of the ids and with the noise that our voice has for a text."""
    ids, key = torch.tensor([voice.frontend.encode(text)]), torch.tensor([randomness.key(SEED, "speak", text)])

    def duration_noise(*shape: int) -> Tensor:
        return randomness.normal(key, "duration.prior", *shape[1:])

    def prior_noise(x: Tensor) -> Tensor:
        noise = randomness.normal(key, "prior", *x.shape[1:])
        return noise.flip(1) if voice.config.model.flow.n_couplings % 2 else noise

    own = voice.config.synthesis
    model.noise_scale, model.noise_scale_duration = own.noise_scale, own.duration_noise_scale
    with mock.patch("torch.randn", duration_noise), mock.patch("torch.randn_like", prior_noise), torch.no_grad():
        return model(ids, speaker_id=speaker).waveform[0]


def spoken(voice: Synthesizer, text: str = TEXT) -> Tensor:
    return torch.from_numpy(voice.speak(text, voice.speak_settings(seed=SEED)))


def original_weights(model) -> dict[str, Tensor]:
    """The weights under the names of the published code, with the weight norm that it has everywhere."""
    for conv in [*model.decoder.upsampler, *model.decoder.resblocks.modules()]:
        if isinstance(conv, nn.Conv1d | nn.ConvTranspose1d) and not hasattr(conv, "parametrizations"):
            nn.utils.parametrizations.weight_norm(conv)
    weights = {}
    for name, x in model.state_dict().items():
        shape = (*x.shape, 1) if re.search(r"[qkv]_proj\.weight|out_proj\.weight", name) else x.shape
        for pattern, new in TO_ORIGINAL:
            name = re.sub(pattern, new, name)
        weights[name] = x.reshape(shape).clone()
    return weights


def original_config(model, **data) -> dict:
    """config.json of the published code."""
    c = model.config
    hop_length = torch.tensor(c.upsample_rates).prod().item()
    audio = {"filter_length": 2 * (c.spectrogram_bins - 1), "hop_length": hop_length, "mel_fmin": 0.0, "mel_fmax": None}
    audio |= {"win_length": audio["filter_length"], "n_mel_channels": 40, "sampling_rate": c.sampling_rate}
    text = {
        "text_cleaners": ["english_cleaners2"],
        "add_blank": True,
        "n_speakers": c.num_speakers - 1 and c.num_speakers,
    }
    networks = {
        "inter_channels": c.flow_size,
        "hidden_channels": c.hidden_size,
        "filter_channels": c.ffn_dim,
        "n_heads": c.num_attention_heads,
        "n_layers": c.num_hidden_layers,
        "kernel_size": c.ffn_kernel_size,
        "p_dropout": 0.1,
        "resblock": "1" if hasattr(model.decoder.resblocks[0], "convs1") else "2",
        "resblock_kernel_sizes": c.resblock_kernel_sizes,
        "resblock_dilation_sizes": c.resblock_dilation_sizes,
        "upsample_rates": c.upsample_rates,
        "upsample_initial_channel": c.upsample_initial_channel,
        "upsample_kernel_sizes": c.upsample_kernel_sizes,
        "n_layers_q": 3,
        "use_spectral_norm": False,
    }
    return {"train": {}, "data": audio | text | data, "model": networks, "symbols": SYMBOLS}


def write_original(folder: Path, model, **save) -> Path:
    """logs/NAME/G_1000.pth and config.json."""
    folder.mkdir()
    content = {"model": original_weights(model), "iteration": 1000, "optimizer": {}, "learning_rate": 2e-4}
    torch.save(content, folder / "G_1000.pth", **save)
    (folder / "config.json").write_text(json.dumps(original_config(model)))
    return folder / "G_1000.pth"


def piper_json(model, **changes) -> dict:
    """The .json of a Piper voice: its map has gaps."""
    return {
        "audio": {"sample_rate": model.config.sampling_rate},
        "espeak": {"voice": "en-us"},
        "inference": {"noise_scale": 0.5, "length_scale": 1, "noise_w": 0.7},
        "phoneme_type": "espeak",
        "phoneme_id_map": {symbol: [i] for i, symbol in enumerate(SYMBOLS)} | {"ç": [60]},
        "num_symbols": model.config.vocab_size,
        "num_speakers": model.config.num_speakers,
        "speaker_id_map": {f"speaker-{i}": i for i in range(model.config.num_speakers)},
        **changes,
    }


def write_piper(folder: Path, model, **more) -> Path:
    """A training checkpoint and its config.json. `more` joins the hyper-parameters."""
    folder.mkdir()
    config = original_config(model)
    audio = config["data"]
    settings = config["model"] | {key: audio[key] for key in ("filter_length", "hop_length", "win_length", "mel_fmin")}
    settings |= {"mel_fmax": None, "mel_channels": 40, "sample_rate": model.config.sampling_rate, **more}
    weights = {f"model_g.{name}": x for name, x in original_weights(model).items()}
    weights["model_d.discriminators.0.convs.0.bias"] = torch.zeros(2)
    content = {"state_dict": weights, "hyper_parameters": settings, "global_step": 7}
    torch.save(content, folder / "epoch=1.ckpt")
    (folder / "config.json").write_text(json.dumps(piper_json(model)))
    return folder / "epoch=1.ckpt"


def write_transformers(folder: Path, model, tokenizer: dict, symbols: list[str]) -> Path:
    """save_pretrained of the model, and the files of VitsTokenizer."""
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder
