# Which sentence a class is put into, where a ranking by sharpness chooses it: CLIP's features of the
# images that rank the templates, and the texts. Texts with a fixed template need no job: the pass
# that makes the maps encodes them.
#
# One job makes all of it, but for what is there as planned: that has another rule, as for the maps.

for name, passes in rules_of("texts", [PLAN.ranking]).items():
    nodes = passes[0][1]

    rule:
        name:
            name
        input:
            fresh(products_of(nodes)),
            images=images_of(SPLITS.prompts),
            features=files(read_of(nodes)),
            sidecars=sidecars(read_of(nodes)),
        output:
            image_features=outputs_of(nodes, "features", 0),
            features=outputs_of(nodes, "texts", 0),
            prompt=outputs_of(nodes, "texts", 1),
            sharpness=outputs_of(nodes, "texts", 2),
            sidecars=[product.sidecar for node in nodes for product in PLAN.products(node)],
        log:
            LOGS / f"texts/{folder_of(name)}.log",
        benchmark:
            BENCHMARKS / f"texts/{folder_of(name)}.tsv"
        threads: COMPUTE.threads
        resources:
            **needs("texts"),
            gpu=GPU,
        params:
            stamp=PLAN.pass_stamp(PLAN.ranking),
            wanted=unseen([PLAN.ranked(node) for node in nodes]),
            others=unseen(names_of(read_of(nodes))),
            reads=stamps(read_of(nodes)),
            dataset=unseen(DATASET.model_dump()),
            split=unseen(SPLITS.prompts),
            compute=unseen(COMPUTE.model_dump()),
        message:
            f"texts: {plural([n for n in nodes if n.stage == 'texts'], 'ranking')} of templates"
        script:
            "../scripts/texts.py"
