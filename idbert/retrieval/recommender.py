"""Recommendations in the caller's own ids, for users whether or not the model has seen them."""

import logging
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.inputs.item_batches import history_batches
from idbert.inputs.vocabulary import Ids, Vocabulary
from idbert.nn.fast_inference import fast_inference
from idbert.nn.item_models import ItemModel, load_item_model
from idbert.retrieval.exact import ExactIndex, TablePrecision
from idbert.retrieval.histories import Histories, HistoryList, HistoryTable, read_histories
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_device import IndexDevice
from idbert.retrieval.index_settings import SearchSettings
from idbert.retrieval.item_filters import allowed_items, check_k, popular_items
from idbert.retrieval.query_times import Moments, with_query_times
from idbert.retrieval.recommendation_batches import RecommendationBatches
from idbert.retrieval.vectors import Layer, cosine_vectors, item_layer_vectors
from idbert.rows import FIRST_ITEM, UNK
from idbert.run_dir import RunDir
from idbert.tables import ITEM, RANK, SCORE

logger = logging.getLogger(__name__)

USERS_AT_ONCE = 8192
"""Users that are encoded and searched for together, and written as one row group."""

TOKEN_BUDGET = {"cpu": 4000}
"""Positions of a batch by the kind of device: on a CPU what its caches hold; elsewhere 12,800."""

Excluded: TypeAlias = tuple[Int64[np.ndarray, "T"], Int64[np.ndarray, "_"]]
"""Items that histories must not get, end to end, and where those of each begin and end."""

SIMILAR = "similar_item_id"
"""Column of `Recommender.similar_items` with the item that is like another."""


class Recommender:
    """A trained model, its vocabulary, and a way to search its items.

    Args:
        model: trained on rows of `vocabulary`; its dropout is switched off.
        vocabulary: the catalogue.
        index: an index of the model's item vectors in the vocabulary's order; None: exact search.
        max_length: most events of a sequence in the model's training; of a history as many
            positions are read as of these. None: all that it can read.
        search: how thoroughly the index is searched; what is None is as the index says.
        table_precision: in which numbers items are kept for exact search: bfloat16 takes half the
            memory and changes a few recommendations.
        filter_seen: whether `recommend` leaves out items of the history where it is not told.

    Raises:
        CheckpointError: the parts do not belong together.
        ConfigError: search is given without an index.
    """

    def __init__(
        self,
        model: ItemModel,
        vocabulary: Vocabulary,
        *,
        index: VectorIndex | None = None,
        max_length: int | None = None,
        search: SearchSettings = SearchSettings(),  # noqa: B008 (frozen)
        table_precision: TablePrecision = "float32",
        filter_seen: bool = True,
    ) -> None:
        if model.config.vocab_size != len(vocabulary):
            raise CheckpointError(
                f"the model has {model.config.vocab_size} rows and the vocabulary "
                f"{len(vocabulary)}: they are not of one run."
            )
        if index is not None and not index.ids.equals(vocabulary.ids):
            raise CheckpointError(
                "the index does not hold the vocabulary's items in their order. Build it again."
            )
        if index is None and search != SearchSettings():
            raise ConfigError(
                "search says how an index is searched, and there is none. Build one with "
                "rec_index, or leave search out."
            )
        self._search = search
        self.filter_seen = filter_seen
        self.model = model
        self.model.train(False)
        self.vocabulary = vocabulary
        self.index = index
        self._max_length = model.history_limit(max_length)
        self._exact = ExactIndex(model.item_vectors()[FIRST_ITEM:], table_precision)
        self._cosine: dict[Layer, ExactIndex] = {}

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        index: bool | None = None,
        device: str = "cpu",
        mapped: bool = False,
        index_device: IndexDevice = "cpu",
        search: SearchSettings = SearchSettings(),  # noqa: B008 (frozen)
        table_precision: TablePrecision = "float32",
    ) -> "Recommender":
        """Open a finished run.

        Items of the history are left out or not as in the run's own evaluation (`filter_seen`).

        Args:
            run: the run's folder.
            index: whether to search by the run's index; None: if it has one.
            device: where the model computes, such as "cpu" or "cuda".
            mapped: whether the index stays on disk; see `VectorIndex.load`.
            index_device: where the index is searched.
            search: how thoroughly the index is searched; what is None is as the index says.
            table_precision: in which numbers items are kept for exact search.

        Raises:
            CheckpointError: the run is missing, unfinished or damaged, or its index is missing,
                damaged or of another model.
            ConfigError: a setting cannot act, since there is no index or it is of another kind; or
                there is no such device.
            MissingExtraError: the index needs FAISS, which is not installed, or its GPU part.
        """
        folder = RunDir.open(run)
        use_index = folder.index.exists() if index is None else index
        if not use_index and (mapped or index_device != "cpu"):
            raise ConfigError(
                f"{folder.path} is searched without an index, so that mapped and index_device "
                "cannot act. Build one with rec_index, or leave them out."
            )
        opened = None
        if use_index:
            opened = VectorIndex.load(
                folder.index, folder.model_sha256, mapped=mapped, device=index_device
            )
        model = load_item_model(folder.model)
        _move(model, device)
        config = folder.read_config()
        return cls(
            model,
            Vocabulary.load(folder.path),
            index=opened,
            max_length=(config.get("sequences") or {}).get("max_length"),
            search=search,
            table_precision=table_precision,
            filter_seen=bool(config.get("filter_seen", True)),
        )

    def recommend(
        self,
        histories: HistoryList | HistoryTable,
        k: int = 10,
        *,
        filter_seen: bool | None = None,
        allow: Ids | None = None,
        deny: Ids | None = None,
        behaviour: str | None = None,
        at: Moments | None = None,
    ) -> pd.DataFrame:
        """Return the k best items of each history.

        Items that the model does not know are skipped. A history without a known item gets the
        most popular items, and their training counts as scores (moved to what is popular lately,
        where the model's scores are).

        Args:
            histories: lists of item ids, oldest first; or a table with user_id and item_id, and a
                timestamp unless its rows are in order.
            k: items wanted. A user gets fewer if the filters leave fewer; one for whom the index
                finds fewer than that is searched for exactly.
            filter_seen: whether items of the history are left out; None: as the run was trained.
            allow: the only items that may be recommended. They are scored exactly, without the
                index.
            deny: items that may not be recommended; ids outside the catalogue change nothing.
            behaviour: which kind of event to predict; only for masked-item models of a log with
                behaviours. None: the most frequent one.
            at: the moment for which is recommended, one for all or one a history (of a table: in
                the order of the users' ids), for models that read it.

        Returns:
            Columns user_id (or history, the number of a list), rank (from 1), item_id, score; best
            first within each user. `attrs` says what was done beyond that: "skipped_items", the
            number of events with unknown items, and "popularity_histories", the users or numbers
            of the histories that got the most popular items.

        Raises:
            DataError: k is above the catalogue's size; histories, behaviour, allow or deny are not
                what they must be.
            ConfigError: k is below 1, behaviour cannot act, or the index cannot filter.
        """
        batches = self.recommend_batches(
            histories,
            k,
            filter_seen=filter_seen,
            allow=allow,
            deny=deny,
            behaviour=behaviour,
            at=at,
        )
        table = pa.Table.from_batches(list(batches), batches.schema)
        return self._with_attrs(table.to_pandas(), batches.histories)

    def recommend_batches(
        self,
        histories: HistoryList | HistoryTable,
        k: int = 10,
        *,
        filter_seen: bool | None = None,
        allow: Ids | None = None,
        deny: Ids | None = None,
        behaviour: str | None = None,
        at: Moments | None = None,
        users_at_once: int = USERS_AT_ONCE,
    ) -> RecommendationBatches:
        """Return what `recommend` does as batches of some users each, made one by one.

        Beside the histories only one batch is in memory, so that any number of users can be
        written to a file. What cannot be is refused at once, not in the middle.

        Args:
            histories: as for `recommend`.
            k: as for `recommend`.
            filter_seen: as for `recommend`.
            allow: as for `recommend`.
            deny: as for `recommend`.
            behaviour: as for `recommend`.
            at: as for `recommend`.
            users_at_once: users of a batch.

        Returns:
            To be iterated over, once or more; its length is the number of batches.

        Raises:
            DataError: as for `recommend`.
            ConfigError: as for `recommend`, or users_at_once is below 1.
        """
        check_k(k, len(self._exact), self.vocabulary.num_items)
        if users_at_once < 1:
            raise ConfigError(f"users_at_once is {users_at_once}; it must be at least 1.")
        read = self._read(histories, at)
        self._behaviour_row(behaviour)
        allowed_N = allowed_items(self.vocabulary, allow, deny)
        use_index = self.index is not None and allow is None
        self._report(read)

        drops_seen = self.filter_seen if filter_seen is None else filter_seen

        def batch(start: int) -> pa.RecordBatch:
            part = read.part(start, min(start + users_at_once, len(read)))
            return self._best(part, k, allowed_N, drops_seen, behaviour, use_index=use_index)

        columns = [(read.key, read.keys.type), (RANK, pa.int64())]
        columns += [(ITEM, self.vocabulary.ids.type), (SCORE, pa.float32())]
        return RecommendationBatches(read, pa.schema(columns), users_at_once, batch)

    def _best(
        self,
        read: Histories,
        k: int,
        allowed_N: Bool[np.ndarray, "N"] | None,
        filter_seen: bool,
        behaviour: str | None,
        *,
        use_index: bool,
    ) -> pa.RecordBatch:
        """Return the recommendations for some histories."""
        has_items_U = read.lengths > 0
        scores_UK = np.full((len(read), k), -np.inf, np.float32)
        rows_UK = np.full((len(read), k), -1, np.int64)
        if has_items_U.any():
            known = read.not_empty()
            users_UD = self.encode(known, behaviour)
            seen_T = known.rows_T.astype(np.int64) - FIRST_ITEM
            excluded = (seen_T, known.offsets) if filter_seen else None
            if use_index and self.index is not None:
                found = self.index.search(
                    users_UD, k, self._search, allowed_N=allowed_N, excluded=excluded
                )
                self._complete(found, users_UD, allowed_N, excluded)
            else:
                found = self._exact.search(users_UD, k, allowed_N=allowed_N, excluded=excluded)
            scores_UK[has_items_U], rows_UK[has_items_U] = found
        if not has_items_U.all():
            counts_N = self._counts_N
            popular = popular_items(counts_N, k, allowed_N)
            rows_UK[~has_items_U, : len(popular)] = popular
            scores_UK[~has_items_U, : len(popular)] = counts_N[popular]

        users, places = np.nonzero(rows_UK >= 0)
        return pa.record_batch(
            {
                read.key: read.keys.take(pa.array(users)),
                RANK: places + 1,
                ITEM: self.vocabulary.ids.take(pa.array(rows_UK[users, places])),
                SCORE: scores_UK[users, places],
            }
        )

    def _complete(
        self,
        found: tuple[Float32[np.ndarray, "U K"], Int64[np.ndarray, "U K"]],
        users_UD: Float32[np.ndarray, "U D"],
        allowed_N: Bool[np.ndarray, "N"] | None,
        excluded: Excluded | None,
    ) -> None:
        """Search exactly for those of whom an index found fewer items than wanted.

        A few cells or a graph may hold fewer than k items that are neither seen nor denied.
        """
        scores_UK, rows_UK = found
        is_short_U = (rows_UK < 0).any(1)
        if not is_short_U.any():
            return
        if excluded is not None:
            seen_T, offsets = excluded
            lengths_U = np.diff(offsets)
            kept = np.concatenate([[0], lengths_U[is_short_U].cumsum()])
            excluded = seen_T[np.repeat(is_short_U, lengths_U)], kept
        scores_UK[is_short_U], rows_UK[is_short_U] = self._exact.search(
            users_UD[is_short_U], rows_UK.shape[1], allowed_N=allowed_N, excluded=excluded
        )

    def score(
        self,
        histories: HistoryList | HistoryTable,
        *,
        behaviour: str | None = None,
        at: Moments | None = None,
    ) -> pd.DataFrame:
        """Return the model's score of every item for each history; no filter, no index.

        Args:
            histories: as for `recommend`.
            behaviour: as for `recommend`.
            at: as for `recommend`.

        Returns:
            float32, one row a history (labelled by user_id, or by its number), one column an item
            (labelled by item_id, in the vocabulary's order). Histories without a known item get
            the training counts. `attrs` as for `recommend`. It holds U x N numbers: give large
            catalogues few histories at a time.

        Raises:
            DataError: the histories or the behaviour are not what they must be.
            ConfigError: behaviour cannot act.
        """
        read = self._read(histories, at)
        has_items_U = read.lengths > 0
        scores_UN = np.empty((len(read), len(self._exact)), np.float32)
        scores_UN[~has_items_U] = self._counts_N
        if has_items_U.any():
            users_UD = self.encode(read.not_empty(), behaviour)
            scores_UN[has_items_U] = self._exact.scores(users_UD)
        frame = pd.DataFrame(
            scores_UN,
            index=pd.Index(read.keys.to_pandas(), name=read.key),
            columns=pd.Index(self.vocabulary.ids.to_pandas(), name=ITEM),
        )
        self._report(read)
        return self._with_attrs(frame, read)

    def similar_items(
        self,
        ids: Ids,
        k: int = 10,
        *,
        allow: Ids | None = None,
        deny: Ids | None = None,
        layer: Layer = None,
    ) -> pd.DataFrame:
        """Return the k items whose vectors have the largest cosine with each item's.

        Args:
            ids: items of the catalogue.
            k: items wanted for each; the item itself is left out.
            allow: the only items that may be among them; None: all.
            deny: items that may not be.
            layer: whose vectors: None the embedding table's; 0 the embedding output, 1 the first
                layer, -1 the last one, "fused" the fusion, of a history of that item alone.

        Returns:
            Columns item_id, rank (from 1), similar_item_id, score (the cosine).

        Raises:
            DataError: an id is unknown, k is above what may be chosen beside the item, or no
                allowed item is in the catalogue.
            ConfigError: k is below 1, or the encoder has no such layer.
        """
        allowed_N = allowed_items(self.vocabulary, allow, deny)
        allowed = len(self._exact) if allowed_N is None else int(allowed_N.sum())
        # The item itself may be one of those that are allowed.
        check_k(k, min(allowed, len(self._exact) - 1), self.vocabulary.num_items)
        rows_Q = self.vocabulary.rows(ids)
        unknown = np.flatnonzero(rows_Q == UNK)
        if len(unknown):
            shown = ", ".join(f"'{list(ids)[place]}'" for place in unknown[:5])
            raise DataError(f"{len(unknown)} of {len(ids)} ids are not in the catalogue: {shown}.")
        rows_Q = rows_Q - FIRST_ITEM
        if layer not in self._cosine:
            vectors_ND = cosine_vectors(item_layer_vectors(self.model, layer))
            self._cosine[layer] = ExactIndex(vectors_ND)
        index = self._cosine[layer]
        excluded = (rows_Q, np.arange(len(rows_Q) + 1))
        scores_QK, rows_QK = index.search(
            index.vectors(rows_Q), k, allowed_N=allowed_N, excluded=excluded
        )
        found_QK = rows_QK >= 0  # of an item that is one of the allowed ones there is one fewer
        asked_QK = np.broadcast_to(rows_Q[:, None], rows_QK.shape)
        ranks_QK = np.broadcast_to(np.arange(1, k + 1), rows_QK.shape)
        frame: pd.DataFrame = pa.table(
            {
                ITEM: self.vocabulary.ids.take(pa.array(asked_QK[found_QK])),
                RANK: ranks_QK[found_QK],
                SIMILAR: self.vocabulary.ids.take(pa.array(rows_QK[found_QK])),
                SCORE: scores_QK[found_QK],
            }
        ).to_pandas()
        return frame

    def user_vectors(
        self,
        histories: HistoryList | HistoryTable,
        *,
        behaviour: str | None = None,
        at: Moments | None = None,
    ) -> tuple[pa.Array, Float32[np.ndarray, "U _"]]:
        """Return the vectors that items are searched by: their inner products are the scores.

        Args:
            histories: as for `recommend`; those without a known item have no vector.
            behaviour: as for `recommend`.
            at: as for `recommend`.

        Returns:
            The users (or numbers of the histories), and one vector for each, [U, D+1].

        Raises:
            DataError: the histories are not what they must be, or none has a known item.
        """
        known = self._read(histories, at).not_empty()
        if len(known) == 0:
            raise DataError("none of the histories has an item that the model knows.")
        return known.keys, self.encode(known, behaviour)

    def item_vectors(self, items: slice) -> Float32[np.ndarray, "N _"]:
        """Return what is searched of some items, by their places: embedding and bias, [N, D+1]."""
        return self._exact.vectors(np.arange(*items.indices(len(self._exact))))

    @property
    def _counts_N(self) -> Float64[np.ndarray, "N"]:
        """How often each item occurs in training, moved as the model's scores are."""
        counts_N: np.ndarray = self.vocabulary.counts_V[FIRST_ITEM:].astype(np.float64)
        shift_V = self.model.head.shift_V
        if shift_V is None:
            return counts_N
        return counts_N * np.exp(shift_V[FIRST_ITEM:].cpu().numpy().astype(np.float64))

    def encode(
        self, histories: Histories, behaviour: str | None = None
    ) -> Float32[np.ndarray, "U _"]:
        """Return the vectors of histories of which none is empty, [U, D+1]; see `user_vectors`."""
        sequences = histories.sequences()
        batches = history_batches(
            sequences,
            objective=self.model.objective,
            max_length=self._max_length,
            query_behaviour=self._behaviour_row(behaviour),
            token_budget=TOKEN_BUDGET.get(self.model.device.type, 12800),
            times=self.model.config.reads_times,
            query_times_U=histories.asked_U,
        )
        with fast_inference(self.model):
            return self.model.encode_users(batches, len(sequences)).cpu().numpy()

    def _read(self, histories: HistoryList | HistoryTable, at: Moments | None) -> Histories:
        read = read_histories(histories, self.vocabulary)
        return with_query_times(read, self.model.config.reads_times, at)

    def _behaviour_row(self, behaviour: str | None) -> int:
        if behaviour is None:
            return 0
        if self.model.objective != "masked" or not self.vocabulary.behaviours:
            reason = "a next-item model" if self.vocabulary.behaviours else "a log without any"
            raise ConfigError(f"behaviour='{behaviour}' cannot act on {reason}. Leave it out.")
        return int(self.vocabulary.behaviour_rows([behaviour])[0])

    def _report(self, histories: Histories) -> None:
        """Say in the log how many histories get the most popular items."""
        empty = int((histories.lengths == 0).sum())
        if empty:
            logger.warning(
                "%d of %d histories hold no known item and got the most popular ones",
                empty,
                len(histories),
            )

    def _with_attrs(self, frame: pd.DataFrame, histories: Histories) -> pd.DataFrame:
        """Say in attrs what was done about unknown items and empty histories."""
        popularity: list[Any] = histories.keys.filter(pa.array(histories.lengths == 0)).to_pylist()
        frame.attrs["skipped_items"] = histories.num_skipped
        frame.attrs["popularity_histories"] = popularity
        return frame


def _move(model: ItemModel, device: str) -> None:
    try:
        model.to(torch.device(device))  # type: ignore[arg-type]  # its wrapper hides the signature
    except (AssertionError, RuntimeError) as error:  # torch's, by kind of build
        said = str(error).partition("\n")[0]
        raise ConfigError(
            f"device is '{device}', which cannot be used here ({said}). Choose cpu, or cuda where "
            "there is a GPU and torch is built for it."
        ) from error
