"""The stitched endpoint: a prompt in, a picture of both models out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hybridstitch.pipeline import HybridStitchPipeline, StepWatcher
from hybridstitch.serving.settings import load_catalogue
from hybridstitch.serving.worker.explain import explain_request
from hybridstitch.serving.worker.render import generate_batch
from hybridstitch.serving.worker.service import Service
from hybridstitch.wire.documents import Rendering
from hybridstitch.wire.request import GenerationRequest


class StitchedService(Service):
    """Generates by `HybridStitchPipeline`."""

    def load(self) -> None:
        """Load the pair from the archive and the strategies that model-config.yaml names."""
        settings = self.settings
        self.pipeline = HybridStitchPipeline.from_pretrained(
            settings.folder,
            dtype=settings.dtype,
            device="cpu" if settings.is_offloaded else settings.device,
            quantise=settings.quantise,
            catalogue=load_catalogue(settings.strategies),
        )
        if settings.is_offloaded:
            self.pipeline.offload(settings.device, text_encoders=settings.text_encoders, offload=settings.offload)
        self.pipeline.prompts.cache.limit = settings.prompt_cache_mib * 2**20
        if settings.small_device is not None:
            self.pipeline.to_devices(settings.device, settings.small_device)
        self.catalogue = self.pipeline.catalogue
        self.pipeline.marks = settings.mark
        self.adapters = self.pipeline.adapters
        self.pipeline.set_progress_bar_config(disable=True)
        self.size_limits = self.pipeline.size_limits
        self.preview = self.pipeline.decode
        if settings.explanations:
            self.explainer = partial(explain_request, self.pipeline)

    def generate(self, requests: Sequence[GenerationRequest], progress: StepWatcher) -> list[Rendering]:
        """Generate pictures by both models, with the report of which model rendered what."""
        return generate_batch(self.pipeline, requests, progress)
