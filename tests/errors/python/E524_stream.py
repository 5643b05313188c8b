x = torch.zeros(1, 2, 8, 16)
SPEC = """attention sinks {
  query q : half[B, H, S, D]
  key   k : half[B, H, S, D]
  value v : half[B, H, S, D]
  input sink : f32[H]
  out = sum(softmax(dot(q, k), sink = sink[h]) * v)
}"""


def call():
    attngen.nn.Attention(SPEC, q=x)
