"""Names of the published VITS code and of Piper, which keeps them: weights, (ours, theirs); see names.py."""


def _norm(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    return (f"{ours}.weight", f"{theirs}.gamma"), (f"{ours}.bias", f"{theirs}.beta")


def _dilated(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"{ours}.convs_dilated.{{j}}", f"{theirs}.convs_sep.{{j}}"),
        (f"{ours}.convs_pointwise.{{j}}", f"{theirs}.convs_1x1.{{j}}"),
        *_norm(f"{ours}.norms_1.{{j}}", f"{theirs}.norms_1.{{j}}"),
        *_norm(f"{ours}.norms_2.{{j}}", f"{theirs}.norms_2.{{j}}"),
    )


def _spline(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    """Flow 0 is the affine layer; between all flows lie flips."""
    return (
        (f"{ours}.0.translate", f"{theirs}.0.m"),
        (f"{ours}.0.log_scale", f"{theirs}.0.logs"),
        (f"{ours}.{{i}}.conv_pre", f"{theirs}.{{2i-1}}.pre"),
        *_dilated(f"{ours}.{{i}}.conv_dds", f"{theirs}.{{2i-1}}.convs"),
        (f"{ours}.{{i}}.conv_proj", f"{theirs}.{{2i-1}}.proj"),
    )


def _wavenet(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"{ours}.convs.{{j}}", f"{theirs}.in_layers.{{j}}"),
        (f"{ours}.res_skips.{{j}}", f"{theirs}.res_skip_layers.{{j}}"),
        (f"{ours}.cond", f"{theirs}.cond_layer"),
    )


# `dp.proj` is conv_proj of the stochastic predictor and proj of the deterministic one: a model of ours has one of them.
WEIGHTS = (
    ("text_encoder.embedding", "enc_p.emb"),
    ("text_encoder.layers.{i}.attention.query", "enc_p.encoder.attn_layers.{i}.conv_q"),
    ("text_encoder.layers.{i}.attention.key", "enc_p.encoder.attn_layers.{i}.conv_k"),
    ("text_encoder.layers.{i}.attention.value", "enc_p.encoder.attn_layers.{i}.conv_v"),
    ("text_encoder.layers.{i}.attention.out", "enc_p.encoder.attn_layers.{i}.conv_o"),
    ("text_encoder.layers.{i}.attention.relative_key", "enc_p.encoder.attn_layers.{i}.emb_rel_k"),
    ("text_encoder.layers.{i}.attention.relative_value", "enc_p.encoder.attn_layers.{i}.emb_rel_v"),
    *_norm("text_encoder.layers.{i}.attention_norm", "enc_p.encoder.norm_layers_1.{i}"),
    *_norm("text_encoder.layers.{i}.feed_forward_norm", "enc_p.encoder.norm_layers_2.{i}"),
    ("text_encoder.layers.{i}.feed_forward", "enc_p.encoder.ffn_layers.{i}"),
    ("text_encoder.proj", "enc_p.proj"),
    ("posterior_encoder.pre", "enc_q.pre"),
    *_wavenet("posterior_encoder.wavenet", "enc_q.enc"),
    ("posterior_encoder.proj", "enc_q.proj"),
    ("flow.couplings.{i}.pre", "flow.flows.{2i}.pre"),
    *_wavenet("flow.couplings.{i}.wavenet", "flow.flows.{2i}.enc"),
    ("flow.couplings.{i}.post", "flow.flows.{2i}.post"),
    ("duration_predictor.conv_pre", "dp.pre"),
    *_dilated("duration_predictor.conv_dds", "dp.convs"),
    ("duration_predictor.conv_proj", "dp.proj"),
    ("duration_predictor.post_conv_pre", "dp.post_pre"),
    *_dilated("duration_predictor.post_conv_dds", "dp.post_convs"),
    ("duration_predictor.post_conv_proj", "dp.post_proj"),
    *_spline("duration_predictor.flows", "dp.flows"),
    *_spline("duration_predictor.post_flows", "dp.post_flows"),
    ("duration_predictor.conv_1", "dp.conv_1"),
    ("duration_predictor.conv_2", "dp.conv_2"),
    *_norm("duration_predictor.norm_1", "dp.norm_1"),
    *_norm("duration_predictor.norm_2", "dp.norm_2"),
    ("duration_predictor.proj", "dp.proj"),
    ("duration_predictor.cond", "dp.cond"),
    ("decoder.conv_pre", "dec.conv_pre"),
    ("decoder.ups.{i}", "dec.ups.{i}"),
    ("decoder.resblocks.{i}", "dec.resblocks.{i}"),
    ("decoder.conv_post", "dec.conv_post"),
    ("decoder.cond", "dec.cond"),
    ("speakers", "emb_g"),
)
WEIGHTS_LIGHT = (("decoder.resblocks.{i}.convs1.{j}", "dec.resblocks.{i}.convs.{j}"), *WEIGHTS)  # resblock_kind "2"

# Settings, (ours, theirs): of `model` in the configuration of the published code, and of a Piper checkpoint.
SETTINGS = (
    ("model.n_latent", "inter_channels"),
    ("model.text_encoder.hidden", "hidden_channels"),
    ("model.text_encoder.filters", "filter_channels"),
    ("model.text_encoder.n_layers", "n_layers"),
    ("model.text_encoder.n_heads", "n_heads"),
    ("model.text_encoder.kernel", "kernel_size"),
    ("model.text_encoder.dropout", "p_dropout"),
    ("model.posterior.hidden", "hidden_channels"),
    ("model.flow.hidden", "hidden_channels"),
    ("model.decoder.hifigan.channels", "upsample_initial_channel"),
    ("model.decoder.hifigan.upsample_rates", "upsample_rates"),
    ("model.decoder.hifigan.upsample_kernels", "upsample_kernel_sizes"),
    ("model.decoder.hifigan.resblock_kind", "resblock"),
    ("model.decoder.hifigan.resblock_kernels", "resblock_kernel_sizes"),
    ("model.decoder.hifigan.resblock_dilations", "resblock_dilation_sizes"),
)
_AUDIO = (
    ("audio.n_fft", "filter_length"),
    ("audio.hop_length", "hop_length"),
    ("audio.win_length", "win_length"),
    ("audio.f_min", "mel_fmin"),
    ("audio.f_max", "mel_fmax"),
)
AUDIO = (("audio.sample_rate", "sampling_rate"), ("audio.n_mels", "n_mel_channels"), *_AUDIO)
AUDIO_PIPER = (("audio.sample_rate", "sample_rate"), ("audio.n_mels", "mel_channels"), *_AUDIO)

# What the published code has fixed; `filters` of the stochastic durations are the hidden channels.
FIXED = {
    "model.text_encoder.window": 4,
    "model.posterior.n_layers": 16,
    "model.flow.n_layers": 4,
    "model.flow.n_couplings": 4,
}
DETERMINISTIC_FILTERS = 256

# The 178 symbols of its frontend: blank, marks, letters, IPA. One is in it twice, and the second place counts.
SYMBOLS = (
    "_" + ';:,.!?¡¿—…"«»“” ' + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    "ɑɐɒæɓʙβɔɕçɗɖðʤəɘɚɛɜɝɞɟʄɡɠɢʛɦɧħɥʜɨɪʝɭɬɫɮʟɱɯɰŋɳɲɴøɵɸθœɶʘɹɺɾɻʀʁɽʂʃʈʧʉʊʋⱱʌɣɤʍχʎʏʑʐʒʔʡʕʢǀǁǂǃ"
    "ˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘'\u0329'ᵻ"
)
