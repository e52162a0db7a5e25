"""What shows a maker of labels that learns all images of its training."""

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook

from clip_wsss.core.ranks import sharing
from clip_wsss.labels.weclip_labels import Learning


class WholeSetHook(Hook):
    """Shows a maker the whole images, one by one, before update 1 and every so many iterations.

    Nothing is drawn, and what `learn` keeps lies in every checkpoint, so that a resumed training
    goes on as an unbroken one.

    Args:
        maker: see `Learning`.
    """

    def __init__(self, maker: Learning):
        self.maker = maker

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """See Hook."""
        checkpoint["meta"]["kept"] = self.maker.kept

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """See Hook."""
        self.maker.kept = checkpoint["meta"]["kept"]

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """See Hook."""
        if runner.iter % self.maker.every:
            return
        model = getattr(runner.model, "module", runner.model)
        dataset = runner.train_dataloader.dataset
        infos = [dataset.get_data_info(number) for number in range(len(dataset))]
        update, (rank, ranks) = int(model.forwards) + 1, sharing()
        own = []
        for info in infos[rank::ranks]:
            seen = model.whole(dataset.images.image(info["id"]), info["keys"], update=update)
            own.append(self.maker.sample(seen).cpu())
        shared = all_gather_object(own)
        samples = [shared[number % ranks][number // ranks] for number in range(len(infos))]
        self.maker.learn([info["keys"] for info in infos], torch.cat(samples))
