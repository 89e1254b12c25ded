"""A small text-generation service: one model, loaded once, requests answered in turn."""
import asyncio
import logging
from contextlib import asynccontextmanager
from functools import lru_cache
from threading import Thread

import torch
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    TextIteratorStreamer,
)

log = logging.getLogger("uvicorn.error")
MODEL = "mistralai/Mistral-7B-Instruct-v0.3"
gate = asyncio.Semaphore(1)


class Request(BaseModel):
    prompt: str = Field(max_length=20_000)
    max_new_tokens: int = Field(256, ge=1, le=1024)
    temperature: float = 0.7


@lru_cache(maxsize=1)
def load():
    log.info("loading %s", MODEL)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(
        MODEL,
        device_map="auto",
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    )
    model.eval()
    return tokenizer, model


@asynccontextmanager
async def lifespan(app):
    load()
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/health")
def health():
    free, total = torch.cuda.mem_get_info()
    return {"free_gib": round(free / 2**30, 2), "total_gib": round(total / 2**30, 2)}


@app.post("/generate")
async def generate(req: Request):
    tokenizer, model = load()
    inputs = tokenizer(req.prompt, return_tensors="pt")
    if inputs["input_ids"].shape[1] > 8192:
        raise HTTPException(413, "prompt too long")
    inputs = {k: v.to(model.device) for k, v in inputs.items()}
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    config = GenerationConfig(
        max_new_tokens=req.max_new_tokens,
        do_sample=req.temperature > 0,
        temperature=req.temperature or None,
        pad_token_id=tokenizer.eos_token_id,
    )

    def work():
        try:
            model.generate(**inputs, generation_config=config, streamer=streamer)
        except torch.cuda.OutOfMemoryError as error:
            log.error("out of memory: %s", error)
            streamer.end()

    async def stream():
        async with gate:
            thread = Thread(target=work)
            thread.start()
            for text in streamer:
                yield text
                await asyncio.sleep(0)
            thread.join()
            torch.cuda.empty_cache()

    return StreamingResponse(stream(), media_type="text/plain")
