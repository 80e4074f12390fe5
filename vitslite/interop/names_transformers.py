"""Names of transformers.VitsModel: weights and settings, (ours, theirs); see names.py."""

WEIGHTS = (
    ("text_encoder.embedding", "text_encoder.embed_tokens"),
    ("text_encoder.layers.{i}.attention.query", "text_encoder.encoder.layers.{i}.attention.q_proj"),
    ("text_encoder.layers.{i}.attention.key", "text_encoder.encoder.layers.{i}.attention.k_proj"),
    ("text_encoder.layers.{i}.attention.value", "text_encoder.encoder.layers.{i}.attention.v_proj"),
    ("text_encoder.layers.{i}.attention.out", "text_encoder.encoder.layers.{i}.attention.out_proj"),
    ("text_encoder.layers.{i}.attention.relative_key", "text_encoder.encoder.layers.{i}.attention.emb_rel_k"),
    ("text_encoder.layers.{i}.attention.relative_value", "text_encoder.encoder.layers.{i}.attention.emb_rel_v"),
    ("text_encoder.layers.{i}.attention_norm", "text_encoder.encoder.layers.{i}.layer_norm"),
    ("text_encoder.layers.{i}.feed_forward_norm", "text_encoder.encoder.layers.{i}.final_layer_norm"),
    ("text_encoder.layers.{i}.feed_forward", "text_encoder.encoder.layers.{i}.feed_forward"),
    ("text_encoder.proj", "text_encoder.project"),
    ("posterior_encoder.pre", "posterior_encoder.conv_pre"),
    ("posterior_encoder.wavenet.convs.{j}", "posterior_encoder.wavenet.in_layers.{j}"),
    ("posterior_encoder.wavenet.res_skips.{j}", "posterior_encoder.wavenet.res_skip_layers.{j}"),
    ("posterior_encoder.wavenet.cond", "posterior_encoder.wavenet.cond_layer"),
    ("posterior_encoder.proj", "posterior_encoder.conv_proj"),
    ("flow.couplings.{i}.pre", "flow.flows.{i}.conv_pre"),
    ("flow.couplings.{i}.wavenet.convs.{j}", "flow.flows.{i}.wavenet.in_layers.{j}"),
    ("flow.couplings.{i}.wavenet.res_skips.{j}", "flow.flows.{i}.wavenet.res_skip_layers.{j}"),
    ("flow.couplings.{i}.wavenet.cond", "flow.flows.{i}.wavenet.cond_layer"),
    ("flow.couplings.{i}.post", "flow.flows.{i}.conv_post"),
    ("duration_predictor", "duration_predictor"),  # either of them, with all that is in it
    ("decoder.conv_pre", "decoder.conv_pre"),
    ("decoder.ups.{i}", "decoder.upsampler.{i}"),
    ("decoder.resblocks.{i}", "decoder.resblocks.{i}"),
    ("decoder.conv_post", "decoder.conv_post"),
    ("decoder.cond", "decoder.cond"),
    ("speakers", "embed_speaker"),
)

# One of theirs may stand for several of ours: an import sets all, an export finds them equal or says what differs.
SETTINGS = (
    ("audio.sample_rate", "sampling_rate"),
    ("model.n_latent", "flow_size"),
    ("model.text_encoder.hidden", "hidden_size"),
    ("model.text_encoder.filters", "ffn_dim"),
    ("model.text_encoder.n_layers", "num_hidden_layers"),
    ("model.text_encoder.n_heads", "num_attention_heads"),
    ("model.text_encoder.kernel", "ffn_kernel_size"),
    ("model.text_encoder.window", "window_size"),
    ("model.text_encoder.dropout", "hidden_dropout"),
    ("model.posterior.hidden", "hidden_size"),
    ("model.posterior.kernel", "wavenet_kernel_size"),
    ("model.posterior.dilation_rate", "wavenet_dilation_rate"),
    ("model.posterior.n_layers", "posterior_encoder_num_wavenet_layers"),
    ("model.flow.hidden", "hidden_size"),
    ("model.flow.kernel", "wavenet_kernel_size"),
    ("model.flow.dilation_rate", "wavenet_dilation_rate"),
    ("model.flow.n_layers", "prior_encoder_num_wavenet_layers"),
    ("model.flow.n_couplings", "prior_encoder_num_flows"),
    ("model.duration.kernel", "duration_predictor_kernel_size"),
    ("model.duration.dropout", "duration_predictor_dropout"),
    ("model.decoder.hifigan.channels", "upsample_initial_channel"),
    ("model.decoder.hifigan.upsample_rates", "upsample_rates"),
    ("model.decoder.hifigan.upsample_kernels", "upsample_kernel_sizes"),
    ("model.decoder.hifigan.resblock_kernels", "resblock_kernel_sizes"),
    ("model.decoder.hifigan.resblock_dilations", "resblock_dilation_sizes"),
    ("synthesis.noise_scale", "noise_scale"),
    ("synthesis.duration_noise_scale", "noise_scale_duration"),
)
STOCHASTIC = (  # use_stochastic_duration_prediction=true
    ("model.duration.filters", "hidden_size"),
    ("model.duration.n_flows", "duration_predictor_num_flows"),
    ("model.duration.n_bins", "duration_predictor_flow_bins"),
    ("model.duration.tail_bound", "duration_predictor_tail_bound"),
)
DETERMINISTIC = (("model.duration.filters", "duration_predictor_filter_channels"),)

# What is the same in all of our models, and in theirs a setting.
FIXED = {
    "depth_separable_channels": 2,
    "depth_separable_num_layers": 3,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-5,
    "leaky_relu_slope": 0.1,
    "use_bias": True,
    "wavenet_dropout": 0.0,
}
