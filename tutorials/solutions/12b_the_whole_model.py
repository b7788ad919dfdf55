# %% [markdown]
# # Solutions of chapter 12b
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_look(q, k, v, allowed):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


# %% tags=["wrong-1"]
def my_look(q, k, v, allowed):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=~allowed)  # True for "leave out"


# %% tags=["solution-2"]
def my_findings(fixture, port):
    free = compare_port(fixture, port, diagnose=False)
    stepped = single_step(fixture, port)
    differ, wrong = (
        [rung.name for rung in result.rungs if rung.status == "differs"]
        for result in (free, stepped)
    )
    return wrong, [name for name in differ if name not in wrong]


# %% tags=["wrong-2"]
def my_findings(fixture, port):
    free = compare_port(fixture, port, diagnose=False)
    differ = [rung.name for rung in free.rungs if rung.status == "differs"]
    return differ[:1], differ[1:]  # as if only the first could be wrong


# %% tags=["solution-3"]
def my_step(model, score):
    optimizer = torch.optim.SGD(model.parameters(), **STEP)
    optimizer.zero_grad()
    score.sum().backward()
    optimizer.step()
    return dict(model.named_parameters())


# %% tags=["wrong-3"]
def my_step(model, score):
    optimizer = torch.optim.SGD(model.parameters(), lr=STEP["lr"], momentum=STEP["momentum"])
    score.sum().backward()
    optimizer.step()  # without the weight decay
    return dict(model.named_parameters())
