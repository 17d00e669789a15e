"""Steps of the teacher: embeddings of images and prompts, and its baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...core.progress import message, show_table
from ...formats.embeddings import META
from ...formats.measurements import save_measurement
from ...formats.probe import Probe
from ...images.sources import list_images
from ..baseline import measure, sentence, table, warnings
from ..context import RunContext
from ..fingerprints import of_embedded
from ..holdout import link_images
from .command import command
from .step import Estimate, Step, teacher_seconds

HALF_BYTES = 2
"""Of a number of an embedding as it is stored."""


def embed(context: RunContext) -> list[Step]:
    """Embed the images, and views of them where the options ask for some."""
    return [
        _embed(
            context,
            name="embed",
            about="embed the images with the teacher",
            images=context.images,
            out=context.folder.embeddings,
            count=context.image_count,
            digest="pictures",
            after=("download",) if context.options.search is not None else (),
            views=context.options.views or 0,
        )
    ]


def embed_labelled(context: RunContext) -> list[Step]:
    """Embed the labelled images, if there are any: of a table those that it names."""
    folder, labelled = context.folder, context.options.labelled
    if labelled is None:
        return []
    links = [] if context.options.label_table is None else [_link_labelled(context)]
    return [
        *links,
        _embed(
            context,
            name="embed labelled",
            about="embed the labelled images with the teacher",
            images=folder.labelled_images if links else labelled,
            out=folder.labelled_embeddings,
            count=context.inputs.measured,
            digest="labelled",
            after=tuple(step.name for step in links),
        ),
    ]


def _link_labelled(context: RunContext) -> Step:
    folder, found = context.folder.labelled_images, context.inputs.labelled
    assert found is not None

    def run() -> None:
        # A link to a damaged tar would be one to all of its images.
        link_images([item for item in found.items if not item.problem], folder)

    return Step(
        name="labelled images",
        about="link the images that the table of labels names",
        run=run,
        inputs={"labelled": context.inputs.digests["labelled"]},
        outputs=(context.below(folder),),
        leftovers="move",
    )


def _embed(
    context: RunContext,
    *,
    name: str,
    about: str,
    images: Path,
    out: Path,
    count: int,
    digest: str,
    after: tuple[str, ...] = (),
    views: int = 0,
) -> Step:
    """A step that embeds images.

    Args:
        context: of the run.
        name: of the step.
        about: what it does.
        images: folder of the images.
        out: folder for their embeddings.
        count: of the images.
        digest: name of the images' fingerprint among the inputs.
        after: steps before it.
        views: per image, to embed as well.
    """
    # An option that is not given stays out of the settings: runs from before it stay valid.
    given = {"views": views} if views else {}
    flags = {**context.teacher_flags, **given}

    def run() -> str:
        from ...distillation.embed import embed

        embed(images, out, num_workers=context.options.num_workers, **flags)
        return _embedded(images, out, views)

    def estimate(probe: Probe) -> Estimate:
        vectors = count * (1 + views)
        seconds = probe.load_seconds + vectors * teacher_seconds(probe)
        return Estimate(seconds, vectors * probe.dim * HALF_BYTES)

    folder = context.below(out)
    return Step(
        name=name,
        about=about,
        run=run,
        estimate=estimate,
        settings={"teacher": context.options.teacher, **given},
        inputs={one: context.inputs.digests[one] for one in (digest, "teacher files")},
        after=after,
        outputs=(folder,),
        markers=(f"{folder}/{META}",),
        command=command("embed", images, out, **flags),
        leftovers="try",  # embeddings of another teacher do not fit
        probed=True,
    )


def _embedded(images: Path, out: Path, views: int) -> str:
    """Fingerprint of what is embedded: the images' content, whatever their files' dates are."""
    from ...formats.matched import match_embeddings

    found = match_embeddings(list_images(images), out)
    what = f"{found.teacher} {found.teacher.fingerprint}" + (f" {views} views" if views else "")
    return of_embedded(found.items.keys, found.contents, what)


def embed_text(context: RunContext) -> list[Step]:
    """Embed the prompts."""
    options, path = context.options, context.folder.text

    def run() -> None:
        from ...distillation.embed_text import embed_text

        embed_text(context.prompts, path, template=options.template, **context.teacher_flags)

    labels = len(context.inputs.prompts.labels)
    flags = {"template": options.template, **context.teacher_flags}
    digests = context.inputs.digests
    return [
        Step(
            name="embed-text",
            about="embed the prompts with the teacher",
            run=run,
            estimate=lambda probe: Estimate(1.0 + labels / probe.teacher_rate),
            settings={"teacher": options.teacher, "template": list(options.template)},
            inputs={name: digests[name] for name in ("prompts", "teacher files")},
            outputs=(context.below(path), context.below(path.with_suffix(".json"))),
            command=command("embed-text", context.prompts, path, **flags),
        )
    ]


CLASS_VECTORS = "class vectors"
"""Name of the step after which the class list is final."""


def class_vectors(context: RunContext) -> list[Step]:
    """Learn class vectors from the images, or with --no-adapt take those of the text.

    With --independent every class gets a probability on its own.
    """
    folder, wanted = context.folder, context.options.adapt
    several = context.options.independent
    keep_text = several and not wanted
    # An option that is not given stays out of the settings: runs from before it stay valid.
    given = {"independent": True} if several else {}

    def run() -> None:
        if not (wanted or several):
            restore_text(folder.text)
            return
        from ...distillation.adapt import adapt

        result = adapt(
            folder.text,
            folder.embeddings,
            folder.text,
            independent=several,
            keep_text=keep_text,
        )
        for line in result.summary():
            if isinstance(line, str):
                message(line)

    flags = {"independent": several or None, "keep_text": keep_text or None}
    learn = command("adapt", folder.text, folder.embeddings, folder.text, **flags)
    return [
        Step(
            name=CLASS_VECTORS,
            about="learn class vectors from the images" if wanted else "take the text's vectors",
            run=run,
            settings={"adapt": wanted, **given},
            after=("embed", "embed-text"),
            markers=(context.below(folder.text),),
            command=learn if wanted or several else "",
            changes=("embed-text",),
        )
    ]


def restore_text(path: Path) -> None:
    """Undo an `adapt` of text embeddings, if there was one."""
    from ...formats.text import load_text, save_text

    text = load_text(path)
    if text.adaptation is not None:
        plain = replace(
            text,
            vectors=text.adaptation.text,
            adaptation=None,
            calibration=None,
            independent=None,
        )
        save_text(path, plain)


def baseline(context: RunContext) -> list[Step]:
    """Measure the teacher before anything is trained."""
    folder, labelled = context.folder, context.options.labelled

    def run() -> None:
        found = measure(folder.embeddings, folder.text, labelled, folder.labelled_embeddings)
        save_measurement(folder.baseline, found)
        show_table(table(found))
        for line in (sentence(found), *warnings(found)):
            message(line)

    more = ("embed labelled",) if labelled is not None else ()
    labels = context.inputs.digests.get("labels")
    return [
        Step(
            name="baseline",
            about="measure the teacher's own zero-shot result",
            run=run,
            inputs={} if labels is None else {"labels": labels},
            after=("embed", CLASS_VECTORS, *more),
            outputs=(context.below(folder.baseline),),
        )
    ]
