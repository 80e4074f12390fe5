"""Glow-TTS, Grad-TTS and flow matching as small as the model=nano of the other tests."""

NANO = {  # the published families, but small
    "glow_tts": [
        "model=glow_tts_tiny",
        "model.flow.hidden=16",
        "model.flow.n_layers=2",
        "model.flow.n_couplings=2",
    ],
    "grad_tts": ["model=grad_tts_tiny", "model.refiner.conv1d.hidden=16", "model.refiner.conv1d.n_layers=2"],
    "flow_matching": [
        "model=grad_tts_tiny",
        "model/refiner=flow_matching",
        "model.refiner.conv1d.hidden=16",
        "model.refiner.conv1d.n_layers=2",
    ],
}
SMALL = [
    "objective=likelihood",
    "model.text_encoder.hidden=16",
    "model.text_encoder.filters=32",
    "model.text_encoder.n_layers=1",
    "model.duration.filters=16",
    "model.decoder.istft.channels=32",
    "model.decoder.istft.n_layers=2",
    "model.segment_frames=32",
]
FAMILIES = {name: [*overrides, *SMALL] for name, overrides in NANO.items()}
REFINED = {"grad_tts": "diffusion", "flow_matching": "flow_matching"}
BY_EXPERIMENT = {  # what an experiment of a family needs in the place of model=nano
    "demo_glow_tts": FAMILIES["glow_tts"],
    "demo_grad_tts": FAMILIES["grad_tts"],
    "demo_flow_matching": FAMILIES["flow_matching"],
    "ljspeech_glow_tts": FAMILIES["glow_tts"],
    "ljspeech_grad_tts": FAMILIES["grad_tts"],
}
