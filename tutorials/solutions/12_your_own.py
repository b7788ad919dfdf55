# %% [markdown]
# # Solutions of chapter 12
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_look(q, k, v, allowed):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


# %% tags=["wrong-1"]
def my_look(q, k, v, allowed):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=~allowed)  # True for "leave out"


# %% tags=["solution-2"]
def my_standardize_backward(dy, centred, sigma):
    over = {"dim": (0, 1, 2), "keepdim": True}
    n = centred[..., 0].numel()
    dsigma = -(dy * centred).sum(**over) / (sigma + 1e-5) ** 2
    dcentred = dy / (sigma + 1e-5) + dsigma * centred / (n * sigma)
    return dcentred - dcentred.mean(**over)


# %% tags=["wrong-2"]
def my_standardize_backward(dy, centred, sigma):
    dcentred = dy / (sigma + 1e-5)  # the deviation taken as a constant
    return dcentred - dcentred.mean(dim=(0, 1, 2), keepdim=True)


# %% tags=["solution-3"]
def my_findings(fixture, port):
    free = compare_port(fixture, port, diagnose=False)
    stepped = single_step(fixture, port)
    first = free.first.name if free.first else ""
    return first, [rung.name for rung in stepped.rungs if rung.status == "differs"]


# %% tags=["wrong-3"]
def my_findings(fixture, port):
    free = compare_port(fixture, port, diagnose=False)
    wrong = [rung.name for rung in free.rungs if rung.status == "differs"]  # most only hand on
    return (wrong[0] if wrong else ""), wrong


# %% tags=["solution-4"]
def my_step(model, score):
    optimizer = torch.optim.SGD(model.parameters(), **STEP)
    optimizer.zero_grad()
    score.sum().backward()
    optimizer.step()
    return dict(model.named_parameters())


# %% tags=["wrong-4"]
def my_step(model, score):
    optimizer = torch.optim.SGD(model.parameters(), lr=STEP["lr"], momentum=STEP["momentum"])
    score.sum().backward()
    optimizer.step()  # without the weight decay
    return dict(model.named_parameters())
