"""A plain loop that a codec learns in, with the losses that the stage of the codecs takes."""

import pytest
import torch


@pytest.fixture(scope="session")
def learn():
    """learn(codec, loss, clips, rate, steps): losses of `steps` AdamW steps on a cosine from `rate` to 0."""

    def run(codec, loss_of, clips, *, rate, steps):
        optimizer = torch.optim.AdamW(codec.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        codec.train()
        losses = []
        for _ in range(steps):
            loss = loss_of(codec, clips)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        codec.eval()
        return losses

    return run
