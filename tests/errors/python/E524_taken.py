SPEC = """attention sinks {
  query q : half[B, H, S, D]
  key   k : half[B, H, S, D]
  value v : half[B, H, S, D]
  input training : f32[H]
  out = sum(softmax(dot(q, k), sink = training[h]) * v)
}"""


def call():
    attngen.nn.Attention(SPEC, training=torch.zeros(2))
