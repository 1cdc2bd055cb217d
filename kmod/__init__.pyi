from . import callbacks as callbacks
from . import graph as graph
from . import layers as layers
from . import spec as spec
from .analysis.dependence import Dependence as Dependence
from .analysis.dependence import dependence as dependence
from .analysis.explanation import Explanation as Explanation
from .analysis.explanation import explain as explain
from .analysis.explanation_recorder import (
    ExplanationRecorder as ExplanationRecorder,
)
from .composition.composer import compose as compose
from .composition.distillation import distil as distil
from .composition.patched_model import Patch as Patch
from .composition.plain_ways import PlainWay as PlainWay
from .composition.saving import load as load
from .composition.saving import save as save
from .data.image_data import ImageData as ImageData
from .data.image_data import LabelledImages as LabelledImages
from .data.image_data import UnlabelledImages as UnlabelledImages
from .data.load import load_data as load_data
from .data.load import load_unlabelled as load_unlabelled
from .errors import ArtifactError as ArtifactError
from .errors import CheckError as CheckError
from .errors import IntegrityError as IntegrityError
from .errors import KmodError as KmodError
from .errors import SpecError as SpecError
from .errors import UnsupportedModelError as UnsupportedModelError
from .errors import UsageError as UsageError
from .graph import channel_graph as channel_graph
from .graph import register_channel_rule as register_channel_rule
from .graph.sizes import Sizes as Sizes
from .metrics.comparison import Comparison as Comparison
from .metrics.evaluate import ClassFigures as ClassFigures
from .metrics.evaluate import Evaluation as Evaluation
from .metrics.evaluate import evaluate as evaluate
from .modular.cnnsplitter.modularize import (
    modularize_by_search as modularize_by_search,
)
from .modular.cnnsplitter.options import SearchOptions as SearchOptions
from .modular.modular_model import ModularModel as ModularModel
from .modular.modularize import modularize as modularize
from .modular.recipe import Phase as Phase
from .modular.recipe import Recipe as Recipe
from .modules.adaptation import Adaptation as Adaptation
from .modules.adaptation import plan_adaptation as plan_adaptation
from .modules.class_module import ClassModule as ClassModule
from .modules.class_module import ModuleInfo as ModuleInfo
from .modules.decompose import decompose as decompose
from .modules.familiarity import Familiarity as Familiarity
from .modules.from_model import module_from_model as module_from_model
from .modules.from_model import modules_from_model as modules_from_model
from .modules.manifest import CalibrationImages as CalibrationImages
from .modules.manifest import InputContract as InputContract
from .modules.manifest import ModuleRecord as ModuleRecord
from .modules.manifest import ModuleSizes as ModuleSizes
from .modules.manifest import SourceRecord as SourceRecord
from .modules.manifest import StoreManifest as StoreManifest
from .modules.module_store import ModuleStore as ModuleStore
from .modules.module_store import add_familiarity as add_familiarity
from .modules.module_store import load_store as load_store
from .modules.refine import refine as refine
from .patching.acceptance import Acceptance as Acceptance
from .patching.donors import Donor as Donor
from .patching.patch_fit import PatchFit as PatchFit
from .patching.patcher import patch as patch
from .patching.search import PatchCandidate as PatchCandidate
from .patching.search import PatchChoice as PatchChoice
from .patching.search import choose_patches as choose_patches
from .report.write import write_report as write_report
from .selection.composition_choice import (
    choose_composition as choose_composition,
)
from .selection.module_choice import ChoiceOption as ChoiceOption
from .selection.module_choice import ModuleChoice as ModuleChoice
from .selection.module_choice import choose_modules as choose_modules
from .slimming.slim import slim as slim
from .spec.spec_file import load_spec as load_spec

__version__: str
