"""torchrun --nproc-per-node 4 ddp_torchrun.py"""
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, DistributedSampler
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling

from mydata import ChunkedText


def setup():
    dist.init_process_group("nccl")
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    return local_rank, dist.get_rank(), dist.get_world_size()


def save(model, step):
    if dist.get_rank() == 0:
        torch.save(model.module.state_dict(), f"ckpt/step{step}.pt")
    dist.barrier()


def main():
    local_rank, rank, world = setup()
    tok = AutoTokenizer.from_pretrained("google-bert/bert-base-multilingual-cased")
    model = AutoModelForMaskedLM.from_pretrained("google-bert/bert-base-multilingual-cased")
    model = model.to(local_rank)
    model = DDP(model, device_ids=[local_rank], gradient_as_bucket_view=True)

    ds = ChunkedText("corpus/*.txt", tok, length=256)
    sampler = DistributedSampler(ds, shuffle=True)
    loader = DataLoader(
        ds,
        batch_size=32,
        sampler=sampler,
        num_workers=4,
        pin_memory=True,
        collate_fn=DataCollatorForLanguageModeling(tok, mlm_probability=0.15),
    )
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler("cuda")
    step = 0
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for batch in loader:
            batch = {k: v.to(local_rank, non_blocking=True) for k, v in batch.items()}
            with torch.autocast("cuda", dtype=torch.float16):
                out = model(**batch)
                loss = out.loss
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            opt.zero_grad(set_to_none=True)
            step += 1
            if step % 100 == 0:
                mean = loss.detach().clone()
                dist.all_reduce(mean, op=dist.ReduceOp.AVG)
                if rank == 0:
                    mem = torch.cuda.max_memory_allocated() / 2**30
                    print(f"step {step} loss {mean.item():.3f} peak {mem:.2f} GiB", flush=True)
            if step % 2000 == 0:
                save(model, step)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
