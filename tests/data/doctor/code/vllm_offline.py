from vllm import LLM, SamplingParams

prompts = open("prompts.txt").read().splitlines()
sampling_params = SamplingParams(temperature=0.0, max_tokens=1024)

llm = LLM(
    model="meta-llama/Llama-3.1-8B-Instruct",
    dtype="half",
    max_model_len=8192,
    gpu_memory_utilization=0.95,
    max_num_seqs=8,
    enforce_eager=True,
    tensor_parallel_size=1,
)
outputs = llm.generate(prompts, sampling_params)
for o in outputs:
    print(o.outputs[0].text)
