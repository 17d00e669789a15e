"""Every setting of a search, with its default (no heavy imports)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ...core.errors import OptionError
from ...core.signatures import check_ranges

SourceName = Literal["knn", "commons", "openverse", "parquet", "pool"]

WHICH_SOURCE = """Give --source. There is no default, because each source has other conditions:
  commons    Wikimedia Commons: free licences, no key; needs --contact
  openverse  openly licensed images of many collections, no key; some thousand hits per day
  parquet    tables of URLs and captions that you downloaded (--tables): LAION, DataComp, PD12M ...
  pool       embeddings on this machine (--pool)
  knn        a service with clip-retrieval's protocol (--url), such as: clipdistill serve"""
NO_PUBLIC_KNN = (
    "--source knn needs --url: LAION's public service (knn.laion.ai) has been gone since December "
    "2023, and no other has replaced it. Start your own with `clipdistill serve POOL`. Or use "
    "--source commons, openverse or parquet."
)
NOT_IDENTITY = (
    "num_images",
    "max_workers",
    "append",
    "contact",
    "device",
    "precision",
    "timeout",
    "retries",
    "backoff",
)
"""Settings that may change when a search is resumed, because they do not change a prompt's hits.
(The effect of `num_images` is part of the number of requested hits.)"""
CANDIDATES = 3000
"""Least number of neighbours or captions per prompt; the default of clip-retrieval's front end."""
OVERLAP = 200
"""Least number of requested hits per prompt where they cost little, as prompts share some hits."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Which images to search for, of `search` and of `run`.

    Attributes:
        num_images: most URLs per prompt.
        num_result_ids: candidates per prompt, from which the URLs are chosen (knn: neighbours
            before the service filters them; parquet: captions that the teacher ranks); 0: twice
            --num-images, and at least 3000 for knn and parquet, 200 for a pool.
        url: knn: address of the service, with or without /knn-service.  There is no default:
            LAION's public service has been gone since December 2023.  Without a service of your own
            (`clipdistill serve`) use --source commons, openverse or parquet.
        indice_name: knn: name of the index; default: the service's first.
        query: knn: search by text, or by the embedding of your own teacher; auto: by text, and by
            embedding when the service accepts no text and --model-name is given.
        use_mclip: knn: search with the multilingual model.
        deduplicate: knn: leave out near-duplicates.
        use_safety_model: knn: leave out images that are not safe for work.
        use_violence_detector: knn: leave out images of violence.
        aesthetic_score: knn: preferred aesthetic score of images, 0 to 9.
        aesthetic_weight: knn: weight of the aesthetic score, 0 to 1.
        contact: commons: your e-mail address or a URL of yours, which Wikimedia's User-Agent policy
            requires; default: the environment variable CLIPDISTILL_CONTACT.
        image_width: commons: width of the images in pixels.
        license: openverse: licences to search for, such as by,by-sa,cc0,pdm.
        license_type: openverse: uses that the licences have to allow: commercial, modification.
        api_url: commons, openverse: address of another API of the same kind.
        tables: parquet: file, glob, or URL that fsspec opens (hf://, s3://); .csv and .tsv are read
            too; repeatable.
        table_embeddings: parquet: folder with the images' embeddings in clip-retrieval's layout, in
            the order of the tables; ranks by image instead of by caption.
        caption_filter: parquet: words (a caption has to hold more than half of the prompt's words),
            or a regular expression that captions have to match (.* for all).
        pool: pool: folder of embeddings from `clipdistill embed` or clip-retrieval, with URLs.
    """

    num_images: Annotated[int, Parameter(name=("--num-images", "-n"))] = 50
    num_result_ids: Annotated[int, Parameter(name=("--num-result-ids", "-m"))] = 0
    url: str | None = None
    indice_name: str | None = None
    query: Literal["auto", "text", "embedding"] = "auto"
    use_mclip: bool = False
    deduplicate: bool = True
    use_safety_model: bool = True
    use_violence_detector: bool = True
    aesthetic_score: int | None = None
    aesthetic_weight: float = 0.5
    contact: str | None = None
    image_width: Literal[250, 330, 500, 960, 1280, 1920, 3840] = 500
    license: str = ""
    license_type: str = ""
    api_url: str | None = None
    tables: tuple[str, ...] = ()
    table_embeddings: Path | None = None
    caption_filter: str = "words"
    pool: Path | None = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SearchOptions(SourceOptions):
    """What to search, and how.

    Attributes:
        source: source to search: knn, commons, openverse, parquet or pool; required.
        max_workers: number of prompts that are searched at the same time.
        append: add to an existing list; URLs that are in it are not added again.
        model_name: open_clip's name of the teacher, hf-hub:ORG/REPO or local-dir:FOLDER; default:
            the pool's own, for tables ViT-B-32-256.
        pretrained: open_clip's weights tag or a weights file (not for hf-hub and local-dir).
        device: device of the teacher: auto, cpu, cuda, cuda:1, mps.
        precision: precision of the teacher's forward pass; auto is fp16 on CUDA, fp32 elsewhere.
        timeout: most seconds to wait for the next byte from a service.
        retries: number of further tries after a temporary failure.
        backoff: most seconds of the first pause between tries; each next one may be twice as long.
    """

    source: SourceName | None = None
    max_workers: int = 2
    append: bool = False
    model_name: str | None = None
    pretrained: str | None = None
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 1.0

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            OptionError: an option is out of range, or a required option of the source is missing.
        """
        if self.source is None:
            raise OptionError(WHICH_SOURCE)
        if self.source == "knn" and not self.url:
            raise OptionError(NO_PUBLIC_KNN)
        if self.source == "pool" and self.pool is None:
            raise OptionError("--source pool needs --pool: a folder of embeddings with URLs.")
        if self.source == "parquet" and not self.tables:
            raise OptionError(
                "--source parquet needs --tables: files, globs, or URLs such as "
                "hf://datasets/ORG/NAME/*.parquet"
            )
        score = self.aesthetic_score
        ranges = {
            "num_images": (self.num_images >= 1, "1 or more"),
            "num_result_ids": (
                self.num_result_ids == 0 or self.num_result_ids >= self.num_images,
                "0, or at least --num-images",
            ),
            "max_workers": (1 <= self.max_workers <= 64, "1 to 64"),
            "aesthetic_score": (score is None or 0 <= score <= 9, "0 to 9"),
            "aesthetic_weight": (0 <= self.aesthetic_weight <= 1, "0 to 1"),
            "timeout": (0 < self.timeout < math.inf, "above 0"),
            "retries": (0 <= self.retries <= 100, "0 to 100"),
            "backoff": (0 <= self.backoff < math.inf, "0 or more"),
        }
        check_ranges(self, ranges)

    @property
    def candidates(self) -> int:
        """`num_result_ids`, or the number that its 0 stands for."""
        least = {"knn": CANDIDATES, "parquet": CANDIDATES, "pool": OVERLAP}.get(str(self.source), 0)
        return self.num_result_ids or max(2 * self.num_images, least)

    @property
    def hits(self) -> int:
        """Hits requested per prompt: more than `num_images`, because prompts share some hits."""
        if self.source in ("knn", "parquet"):
            return min(self.candidates, max(2 * self.num_images, OVERLAP))
        return self.candidates

    def identity(self) -> dict[str, Any]:
        """The settings that decide a prompt's hits, as plain JSON values."""
        kept = {name: value for name, value in asdict(self).items() if name not in NOT_IDENTITY}
        kept |= {"num_result_ids": self.candidates, "hits": self.hits, "tables": list(self.tables)}
        return {n: str(v) if isinstance(v, Path) else v for n, v in kept.items()}
